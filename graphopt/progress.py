"""How far the work is, told to whoever wants to show it; nobody does unless a display was installed.

The library calls `step` and `track`; a program that shows them installs a `Display` with `shown_by`:

    with progress.shown_by(display):
        graphopt.optimize("model.onnx")

The display is kept in a context variable, so that two runs in one process don't see each other. A thread
starts with an empty context: work that is handed to one is wrapped by `carried` to have its progress seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Display(Protocol):
    """What shows progress. Its methods are called from any thread, and have to be quick."""

    def begin(self, name: str, total: int | None) -> int:
        """A step begins; returns its handle.

        Args:
            name: the step's name, such as ``calibrate``.
            total: how many items it has; None where that is not known.
        """
        ...

    def at(self, handle: int, done: int, item: str) -> None:
        """So many items of a step are done, and this one is at hand ("" where it has no name).

        Args:
            handle: what `begin` returned.
            done: items that are done.
            item: name of the one at hand.
        """
        ...

    def end(self, handle: int) -> None:
        """The step is over, whether it succeeded or failed."""
        ...


_display: ContextVar[Display | None] = ContextVar("graphopt_progress", default=None)


@contextmanager
def shown_by(display: Display) -> Iterator[None]:
    """Lets a display see the steps of everything that is called within."""
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


@contextmanager
def step(name: str) -> Iterator[None]:
    """A part of the work that has a name; steps may be nested."""
    display = _display.get()
    if display is None:
        yield
        return
    handle = display.begin(name, None)
    try:
        yield
    finally:
        display.end(handle)


@contextmanager
def told(name: str) -> Iterator[Callable[[str], None] | None]:
    """A step of which somebody else knows what is at hand, such as another process.

    Yields:
        What is to be called with that; None where nobody sees it.
    """
    display = _display.get()
    if display is None:
        yield None
        return
    shown, handle = display, display.begin(name, None)
    try:
        yield lambda item: shown.at(handle, 0, item)
    finally:
        display.end(handle)


def track(
    items: Iterable[T],
    name: str,
    *,
    describe: Callable[[T], str] | None = None,
    total: int | None = None,
) -> Iterator[T]:
    """The items, one by one, as a step of the work.

    Args:
        items: what is worked through.
        name: the step's name.
        describe: what an item is called, such as the layer's name; called only where progress is shown.
        total: how many items there are; their length where they have one.

    Returns:
        The items as they are.
    """
    display = _display.get()
    if display is None:
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    handle = display.begin(name, total)
    try:
        for done, item in enumerate(items):
            display.at(handle, done, "" if describe is None else describe(item))
            yield item
    finally:
        display.end(handle)


def carried(work: Callable[P, T]) -> Callable[P, T]:
    """The work with the context of here and now, to be handed to another thread and called once."""
    context = copy_context()

    def within(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.run(work, *args, **kwargs)

    return within

"""Whether a model means the same after `optimize`: at every size, within what rounding makes of it.

Only what onnxruntime runs counts: a size at which the original does not run asks nothing of the result.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

import graphopt
from graphopt.errors import GraphOptError, InputError, VerificationError
from tests.builders import Array, Feeds, session

Kind: TypeAlias = Literal[
    "right",
    "unrunnable",
    "sizes",
    "missed",
    "wrong",
    "fails",
    "interface",
    "internal",
    "hang",
    "crash",
    "refused",
    "again",
    "differs",
    "misreported",
]
HARMLESS: tuple[Kind, ...] = ("right", "unrunnable", "sizes", "missed")
"""Right; not run by onnxruntime; run at sizes alone that have to be given; a budget that can't be kept."""
FAULTS: dict[Kind, str] = {
    "wrong": "wrong outputs",
    "fails": "results that do not run where the original does",
    "interface": "changed interfaces",
    "internal": "internal errors",
    "hang": "hangs",
    "crash": "crashes",
    "refused": "valid models refused",
    "again": "second runs that change the result",
    "differs": "runs that give up since the whole differs",
    "misreported": "reports that say something else than what is measured",
}
"""What must not be, and how the figures call it."""

EPS = {"float64": 2.3e-16, "float32": 1.2e-7, "float16": 9.8e-4}
ROUNDED = 16
"""Differences of up to so many eps of an output's scale are rounding without further ado: terms are summed
in another order, by about log2 of their number (Higham 2002, section 4.2), a few thousand at most here."""
PERTURBED = 64
"""Beyond that: a difference may be as large as this times the one that the original shows when each of its
weights and inputs is moved by one rounding. A rewrite rounds composed weights once, and as many values in
between as there are operators, each like moves of a few eps; what differs by more is no rounding."""
STOPPED, INTERNAL = "failed verification", "please report this"
"""What a report says of a rewrite that verification alone stopped, and of one that broke down."""
SECONDS = 60
"""Seconds of the processor after which a run hangs: graphs take a fraction of one."""
WAITING = 10
"""As many times that on the clock, for a run that waits; a busy machine is no hang."""


@dataclass(frozen=True)
class Finding:
    """What came of one model.

    Attributes:
        kind: right, not to be run, or the fault.
        detail: what was seen.
        stopped: rewrites that verification alone stopped, with the reason.
        applied: how often each rewrite was applied.
        failed: rewrites that an internal error ended at a site.
    """

    kind: Kind
    detail: str = ""
    stopped: tuple[tuple[str, str], ...] = ()
    applied: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        """What findings of one cause have in common, as far as can be seen."""
        if self.kind == "internal":
            return self.kind, self.detail.split(": ")[0]
        return (self.kind,) if self.fault else ("stopped", *sorted({rewrite for rewrite, _ in self.stopped}))

    @property
    def fault(self) -> bool:
        """Whether this must not be."""
        return self.kind in FAULTS


class Running:
    """A model at work in onnxruntime, in sessions that are made once.

    Args:
        model: the model.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._sessions: dict[bool, Any] = {}

    def run(self, feed: Feeds, *, optimised: bool = False) -> list[Array] | None:
        """The outputs; None where onnxruntime does not run the model."""
        try:
            if optimised not in self._sessions:
                self._sessions[optimised] = session(self.model, optimised=optimised)
            return list(self._sessions[optimised].run(None, feed))
        except Exception:  # whatever onnxruntime raises
            return None


class HangError(BaseException):
    """Time is over; nothing catches it on the way."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Ends what takes more time of the processor, or much more on the clock, as far as Python is reached."""

    def over(*_: object) -> None:
        raise HangError

    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, WAITING * seconds),
    )
    before = [signal.signal(number, over) for _, number, _ in timers]
    for timer, _, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def check(
    model: onnx.ModelProto,
    inputs: Sequence[Feeds],
    *,
    again: bool = False,
    seconds: float = SECONDS,
    **options: Any,
) -> Finding:
    """Optimises a model and compares the two.

    Args:
        model: the original.
        inputs: what both are run on; sizes at which the original does not run are left out.
        again: whether the result is optimised once more, which has to change nothing.
        seconds: time that `optimize` may take.
        options: of `graphopt.optimize`.

    Returns:
        What came of it.
    """
    before = Running(model)
    expected = [(feed, outputs) for feed in inputs if (outputs := before.run(feed)) is not None]
    if not expected:
        return Finding("unrunnable")
    try:
        with limited(seconds):
            result = graphopt.optimize(model, **options)
            after = ir.to_proto(result.model)
            repeated = graphopt.optimize(after, **options) if again else None
    except HangError:
        return Finding("hang", f"no end within {seconds:g} s")
    except InputError as error:
        if "shapes" in options:
            return Finding("refused", str(error))
        sizes = {name: list(array.shape) for name, array in expected[0][0].items()}
        found = check(model, inputs, again=again, seconds=seconds, shapes=sizes, **options)
        return replace(found, kind="sizes", detail=str(error)) if found.kind == "right" else found
    except VerificationError as error:
        return Finding("differs", str(error))
    except (GraphOptError, Exception) as error:
        return Finding("internal", place(error))
    report = result.report
    applied = dict(Counter(item.candidate.rewrite for item in report.applied))
    stopped = tuple((left.rewrite, left.reason) for left in report.declined if STOPPED in left.reason)
    failed = [note for note in report.notes if INTERNAL in note]

    found = partial(Finding, stopped=stopped, applied=applied)

    if failed:
        return found("internal", failed[0])
    weights = [tensor.name for tensor in model.graph.initializer] if model.ir_version < 4 else []
    ours, theirs = interface(model, weights), interface(after, weights)
    if list(ours.items()) != list(theirs.items()):
        gone, new = (set(a.items()) - set(b.items()) for a, b in ((ours, theirs), (theirs, ours)))
        return found("interface", f"{sorted(gone)} became {sorted(new)}")
    if not report.changed:
        return found("right")
    rewritten = Running(after)
    for feed, outputs in expected:
        wrong = different(before, rewritten, feed, outputs)
        if wrong:
            sizes = {name: list(array.shape) for name, array in feed.items()}
            return found("fails" if "can't run" in wrong else "wrong", f"at {sizes}: {wrong}")
    if repeated is not None and repeated.report.changed:
        more = Counter(item.candidate.rewrite for item in repeated.report.applied)
        return found("again", f"a second run applies {dict(more)}")
    return found("right")


def interface(model: onnx.ModelProto, weights: Collection[str]) -> dict[str, str]:
    """What a caller meets, in its order, besides weights that are inputs for the format only."""
    return {
        f"{kind} {place} {value.name}": " ".join(str(value.type).split())
        for kind, values in (("input", model.graph.input), ("output", model.graph.output))
        for place, value in enumerate(value for value in values if value.name not in weights)
    }


def place(error: BaseException) -> str:
    """The error with the place where it arose."""
    while error.__cause__ is not None:
        error = error.__cause__
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "?" if trace is None else f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}"
    return f"{type(error).__name__} in {place}: {str(error)[:200]}"


def different(before: Running, after: Running, feed: Feeds, expected: Sequence[Array]) -> str:
    """How two models differ on an input beyond rounding; "" where they do not.

    Args:
        before: the original.
        after: the result.
        feed: the input.
        expected: the original's outputs for it.
    """
    for optimised in (False, True):
        found = after.run(feed, optimised=optimised)
        if found is None:
            if before.run(feed, optimised=optimised) is None:
                continue  # onnxruntime's optimisation breaks the original, too
            return f"onnxruntime can't run the result{' optimised' if optimised else ''}"
        for name, one, two in zip((v.name for v in before.model.graph.output), expected, found, strict=True):
            wrong = _unequal(name, one, two)
            if not wrong or not (allowed := _beyond(before, feed, expected, name, one, two, optimised)):
                continue
            return f"{wrong}{allowed}{', optimised session' if optimised else ''}"
    return ""


def _unequal(name: str, one: Array, two: Array) -> str:
    """Why two arrays are not equal up to a few roundings."""
    if one.shape != two.shape or one.dtype != two.dtype:
        return f"{name} is {two.dtype}{list(two.shape)} instead of {one.dtype}{list(one.shape)}"
    if one.dtype.kind != "f":
        return "" if np.array_equal(one, two) else f"{name} differs"
    if not one.size:
        return ""
    first, second = one.astype(np.float64), two.astype(np.float64)
    if not np.array_equal(np.isfinite(first), np.isfinite(second)):
        return f"{name} is not finite at other places"
    finite = np.isfinite(first)
    gap = np.abs(np.where(finite, first - np.where(finite, second, 0), 0))
    scale = np.abs(np.where(finite, first, 0)).max()
    if gap.max() <= ROUNDED * EPS[one.dtype.name] * scale:
        return ""
    return f"{name} differs by {gap.max():.2e} at a scale of {scale:.2e}"


def _beyond(
    before: Running,
    feed: Feeds,
    expected: Sequence[Array],
    name: str,
    one: Array,
    two: Array,
    optimised: bool,
) -> str:
    """Whether a difference is more than roundings of weights and inputs make; "" where it is not."""
    if one.shape != two.shape or one.dtype.kind != "f" or one.dtype != two.dtype:
        return " (exactly)"
    index = [value.name for value in before.model.graph.output].index(name)
    moves = (_perturbed(before.model, feed, seed) for seed in range(3))
    others = [Running(model).run(moved) for model, moved in moves]
    if optimised:  # what onnxruntime's own optimisation makes of the original
        others.append(before.run(feed, optimised=True))
    moved = 0.0
    for outputs in others:
        if outputs is None:
            continue
        if outputs[index].shape != one.shape or not np.isfinite(outputs[index]).all():
            return ""  # the original itself has no definite result here
        moved = max(moved, float(np.abs(outputs[index].astype(np.float64) - one).max()))
    gap = float(np.abs(two.astype(np.float64) - one).max())
    return "" if gap <= PERTURBED * moved else f", its own by roundings {moved:.2e}"


def _perturbed(model: onnx.ModelProto, feed: Feeds, seed: int) -> tuple[onnx.ModelProto, Feeds]:
    """The model and its input with each number moved by up to one rounding."""
    dice = np.random.default_rng(seed)

    def moved(array: Array) -> Array:
        if array.dtype.name not in EPS:
            return array
        moves = 1 + EPS[array.dtype.name] * dice.choice((-1.0, 0.0, 1.0), array.shape)
        return np.asarray(array * moves, array.dtype)

    other = onnx.ModelProto()
    other.CopyFrom(model)
    _perturb(other.graph, moved)
    return other, {name: moved(array) for name, array in feed.items()}


def _perturb(graph: onnx.GraphProto, moved: Any) -> None:
    scales = {
        node.input[i]
        for node in graph.node
        if node.op_type in ("Resize", "Upsample")
        for i in range(1, len(node.input))
    }
    for tensor in graph.initializer:
        if tensor.name not in scales:
            tensor.CopyFrom(numpy_helper.from_array(moved(numpy_helper.to_array(tensor)), tensor.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _perturb(attribute.g, moved)


def options_of(seed: int) -> dict[str, Any]:
    """The options that a graph is optimised with: mostly for MACs, which takes all that saves any."""
    dice = random.Random(seed ^ 0x5EED)
    return {"aim": "time" if dice.random() < 0.25 else "macs", "again": dice.random() < 0.15}

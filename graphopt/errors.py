"""The errors that graphopt raises: one root, three kinds, and others that callers tell from these.

Each message says what was wrong, where (file, node, value), and what to do about it.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from ast import literal_eval
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

INTERNAL, INTERRUPTED = 70, 130
"""Exit codes of a bug, and of Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Named:
    """An option in a message. As text it is a mark, which whoever tells the message puts in words.

    Attributes:
        name: what Python calls the option.
        value: the one value that the message is about; "" where it is none.
        key: the key of its value, where that is a mapping.
    """

    name: str
    value: object = ""
    key: str = ""

    @property
    def said(self) -> str:
        """Key and value, as far as they are named."""
        return f"{self.key}={self.value}" if self.key and self.value else f"{self.key or self.value}"

    def __str__(self) -> str:
        plain = type(self.value) in (str, int) or (type(self.value) is float and math.isfinite(self.value))
        value = self.value if plain else str(self.value)
        return f"\x01{self.name}\x02{value!r}\x02{self.key}\x03"


Words: TypeAlias = "Callable[[Named], str]"
LISTED, NEAR = 30, 3
"""Names that a message lists: all, as of the keys of a recipe, or of more, as of rewrites, the nearest."""
_MARK = re.compile("\x01([^\x02]*)\x02([^\x02]*)\x02([^\x03]*)\x03")


def as_argument(named: Named) -> str:
    """An option of a message as Python has it, such as ``budget={'macs': 0.7}``."""
    if not named.key:
        return f"{named.name}={repr(named.value) if named.value else '…'}"
    return f"{named.name}={{{named.key!r}: {named.value or '…'}}}"


def printable(text: str, keep: str = "") -> str:
    """A text in which control and format characters are escaped, so that it can only read as it is.

    They could recolour a terminal, turn a name round, or make one line of two.

    Args:
        text: the text, which may hold names out of a file.
        keep: characters that stay as they are.

    Returns:
        The text; an escape has the form that it has in Python.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or not _hidden(c) else ascii(c)[1:-1] for c in text)


def _hidden(character: str) -> bool:
    """Whether a character is not seen: of Unicode's classes of controls, or a separator of lines."""
    kind = unicodedata.category(character)
    return kind[0] == "C" or kind in ("Zl", "Zp")


class GraphOptError(Exception):
    """The root of every error that graphopt raises on purpose. As text it has Python's words for options."""

    exit_code = INTERNAL

    def __str__(self) -> str:
        return self.worded(as_argument)

    def worded(self, words: Words) -> str:
        """The message, with its options in somebody's words."""
        return _MARK.sub(
            lambda found: words(Named(found[1], literal_eval(found[2]), found[3])), super().__str__()
        )


class InputError(GraphOptError):
    """The model, the calibration inputs or an option can't be used as given."""

    exit_code = 2


class MisfitError(InputError):
    """An operator of a model does not fit what it reads."""


class TooLongError(InputError):
    """A run of a model took longer than is waited for; it may have no end."""


class RefusedError(InputError):
    """onnxruntime refuses a model for what the model says, not for an operator that onnxruntime lacks."""


class ResultError(GraphOptError):
    """What came of a run is not what was asked for; ``result`` holds it, so that its report can be read."""

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class VerificationError(ResultError):
    """The rewritten model does not compute what the original computes; ``result`` is the run up to there."""

    exit_code = 1


class BudgetError(ResultError):
    """No model within the budget was found; ``result`` holds the best that was."""

    exit_code = 3


class SiteError(GraphOptError):
    """A rewrite can't be made where it was wanted, at ``candidate``; ``note`` is for the user."""

    note = ""

    def __init__(self, message: str, candidate: Any = None) -> None:
        super().__init__(message)
        self.candidate = candidate


class PrecisionError(SiteError):
    """What a rewrite would write leaves the range of its type."""


class RewriteError(SiteError):
    """A bug inside a rewrite, which may be a third party's.

    Args:
        rewrite: its name.
        doing: what it was asked for.
        what: the bug.
        candidate: the candidate that it was asked about, if any.
    """

    def __init__(self, rewrite: str, doing: str, what: str, candidate: Any = None) -> None:
        super().__init__(f"rewrite {rewrite} failed {doing}: {what}", candidate)
        self.what = what
        self.note = f"rewrite {rewrite} was left out where it fails; please report this: {what}"


class SomeFailedError(GraphOptError):
    """Of many models some failed.

    Args:
        message: which.
        exit_code: the gravest of theirs.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class StoppedError(GraphOptError):
    """Ctrl-C came while there was work to do on many models; what had been done by then stays."""

    exit_code = INTERRUPTED


SEVERITY = (0, *(e.exit_code for e in (BudgetError, InputError, VerificationError, GraphOptError)))
"""Exit codes, the gravest last: a missed budget or gate, an unusable input, a wrong result, a bug."""


def gravest(codes: Iterable[int]) -> int:
    """The exit code for several models: the gravest of theirs, 0 where there is none."""
    return max(codes, key=SEVERITY.index, default=0)


def told(error: Exception, words: Words) -> tuple[int, str]:
    """An error as an exit code and one line; with ``GRAPHOPT_TRACEBACK`` set, a bug is raised again.

    Args:
        error: what went wrong.
        words: for the options in it.
    """
    code = error.exit_code if isinstance(error, GraphOptError) else INTERNAL
    if isinstance(error, MemoryError):
        return InputError.exit_code, "out of memory: the model or its inputs need more than there is"
    if isinstance(error, OSError) and error.filename is not None:
        return InputError.exit_code, printable(f"{error.filename}: {error.strerror or type(error).__name__}")
    ours = code == INTERNAL and not isinstance(error, SomeFailedError)  # which only counts what was told
    if ours and os.environ.get("GRAPHOPT_TRACEBACK"):
        raise error
    if isinstance(error, GraphOptError):
        return code, printable(" ".join(error.worded(words).split()))
    return code, printable(f"{bug(error)} (GRAPHOPT_TRACEBACK=1 shows more)")


def bug(error: BaseException) -> str:
    """An error that nobody raised on purpose, in one line: what it is, and where it arose."""
    said = " ".join(str(error).split())
    return f"internal error{_place(error)}: {type(error).__name__}" + (f": {said}" if said else "")


def _place(error: BaseException) -> str:
    """The module and line in which the error arose."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" in {trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"


@contextmanager
def blaming(rewrite: str, doing: str, candidate: Any = None) -> Iterator[None]:
    """Lets whatever goes wrong inside a rewrite name the rewrite, which may be a third party's.

    Args:
        rewrite: its name.
        doing: what it was asked for.
        candidate: what it was asked about, if anything.

    Returns:
        What to do it within.

    Raises:
        RewriteError: something goes wrong.
    """
    try:
        yield
    except PrecisionError as error:
        error.candidate = candidate
        raise
    except (GraphOptError, MemoryError):
        raise
    except Exception as error:
        if os.environ.get("GRAPHOPT_TRACEBACK"):  # whoever looks for the bug wants no run that goes on
            raise
        raise RewriteError(rewrite, doing, bug(error), candidate) from error


@contextmanager
def located(file: object) -> Iterator[None]:
    """Within, an operator that does not fit is told with the model's file, where it has one.

    Raises:
        InputError: with the file's name.
    """
    try:
        yield
    except MisfitError as error:
        if file is None:
            raise
        raise InputError(f"{file}: {error.args[0]}") from error


def lacking(what: str, extra: str) -> str:
    """That something needs an extra, and what to install, wherever graphopt itself was installed from.

    Args:
        what: what needs it.
        extra: its name, such as ``html``.

    Returns:
        The message.
    """
    from importlib import metadata  # only where something is missing

    marker = re.compile(rf"""extra\s*==\s*["']{extra}["']""")
    try:
        required = metadata.requires("graphopt") or []
    except metadata.PackageNotFoundError:
        required = []
    packages = [each.partition(";")[0].strip() for each in required if marker.search(each)]
    wanted = " ".join(f"'{each}'" for each in packages or [f"graphopt[{extra}]"])
    return f"{what} needs graphopt[{extra}]: pip install {wanted}"


def hint(name: str, known: Iterable[str]) -> str:
    """A question for the most similar known name, else all of them, or of many the nearest."""
    import difflib  # only where something is wrong

    listed = list(known)
    near = difflib.get_close_matches(name, listed, 1, 0.5)
    if near:
        return f"did you mean {near[0]}?"
    if len(listed) > LISTED:
        return (
            f"the nearest of {len(listed)} are {', '.join(difflib.get_close_matches(name, listed, NEAR, 0))}"
        )
    return f"there are {', '.join(listed) or 'none'}"


def percentage(text: str) -> float | None:
    """The part that a percentage is, such as 0.5 of 50%; None where the text is none."""
    try:
        part = float(text.removesuffix("%")) / 100
    except ValueError:
        return None
    return part if text.endswith("%") and math.isfinite(part) else None

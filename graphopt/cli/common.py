"""What the commands share: their common options, how values are parsed, and what is written where."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial, wraps
from typing import Annotated, Any, TypeAlias, get_origin

import typer

from graphopt.cli import completion
from graphopt.errors import InputError, percentage, printable
from graphopt.files import reason, show
from graphopt.jobs.outcome import step_summary
from graphopt.jobs.task import parse_size
from graphopt.pipeline.options.table import TABLE, Option

# ---------------------------------------------------------------- options


class StrChoice(str, Enum):
    """One of several words."""


Command: TypeAlias = Callable[..., int]


def takes(names: str) -> Callable[[Command], Command]:
    """Gives a command what it takes, made of the table of options unless the command declares it itself.

    It gets values as the library has them. What was not given and has no value by default is left to the
    default of whoever takes it.

    Args:
        names: what it takes, in the order of ``--help``.
    """

    def decorate(command: Command) -> Command:
        declared = inspect.signature(command, eval_str=True).parameters
        own = {
            name: each
            for name, each in declared.items()
            if get_origin(each.annotation) is Annotated or each.annotation is typer.Context
        }
        taken = [own.get(name) or _parameter(TABLE[name]) for name in names.split()]

        @wraps(command)
        def run(**given: Any) -> int:
            kept = {name: value for name, value in given.items() if name in declared or value is not None}
            return command(**{name: READ.get(name, _plain)(value) for name, value in kept.items()})

        run.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]  # typer reads it
        return run

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    """An option of the table as a parameter that typer understands."""
    words: dict[str, Any] = {"metavar": option.shown, "help": option.brief or option.sentence}
    kind, default = option.typed or option.type, option.default
    made = partial(inspect.Parameter, option.name, inspect.Parameter.KEYWORD_ONLY)
    if default is ...:
        return made(annotation=Annotated[kind, typer.Argument(**words)])
    if option.choices:
        kind = StrChoice(option.name, {choice: choice for choice in option.choices})  # type: ignore[call-overload]
        default = kind(default)
    elif option.name == "budgets":
        default = ",".join(f"{part:g}" for part in default)
    elif kind == list[str]:
        default = None
    completed = COMPLETED.get(option.name)
    flags = [flag for flag in (option.short, option.spelled) if flag]
    info = typer.Option(*flags, min=option.least, autocompletion=completed, **words)
    return made(default=default, annotation=Annotated[kind if default is not None else kind | None, info])


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def names(lists: list[str]) -> list[str]:
    """Names of comma-separated lists."""
    return [name for part in lists for name in part.split(",") if name]


def limits(given: list[str]) -> dict[str, float]:
    """The keys of a budget, from KEY=VALUE.

    Raises:
        InputError: one can't be read.
    """
    found: dict[str, float] = {}
    for key, text in pairs("--budget", given):
        try:
            found[key] = float(text)
        except ValueError:
            part = percentage(text)
            meant = "" if part is None else f"; did you mean {key}={part:g}?"
            raise InputError(f"--budget {key}={text}: {text!r} is no number{meant}") from None
    return found


def shapes(given: list[str]) -> dict[str, tuple[int, ...]]:
    """Input sizes by name, from NAME=1x3x224x224."""
    found: dict[str, tuple[int, ...]] = {}
    for name, text in pairs("--shape", given):
        sizes = text.lower().split("x")
        if not all(re.fullmatch("[0-9]{1,18}", size) for size in sizes):  # what fits into 64 bits
            raise InputError(f"--shape {name}={text}: expected sizes such as 1x3x224x224")
        found[name] = tuple(int(size) for size in sizes)
    return found


def sample_axis(given: list[str]) -> dict[str, int | str]:
    """Axes of samples by input, from NAME=AXIS; of a model that has one input, which is "", from AXIS alone.

    Raises:
        InputError: one can't be read.
    """
    alone = [item for item in given if item.isdecimal()]
    if alone and len(given) > 1:
        raise InputError(f"--sample-axis {alone[0]}: stands alone; for several inputs it is NAME=AXIS")
    found = dict(pairs("--sample-axis", given)) if not alone else {"": alone[0]}
    return {name: int(axis) if axis.isdecimal() else axis for name, axis in found.items()}


def confidence(given: str) -> float | str:
    """A confidence, from a number or none; what is neither is refused by whoever takes it."""
    try:
        return float(given)
    except ValueError:
        return given


def parts(budgets: str) -> list[float]:
    """Parts of the MACs, from 0.8,0.6."""
    try:
        return [float(part) for part in budgets.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"--budgets {budgets}: expected numbers such as 0.8,0.6") from None


def pairs(option: str, given: list[str]) -> list[tuple[str, str]]:
    """The (NAME, VALUE) of each NAME=VALUE of an option."""
    found: dict[str, str] = {}
    for item in given:
        key, equals, value = (
            item.rpartition("=") if option in ("--shape", "--sample-axis") else item.partition("=")
        )
        if not (key and equals and value):
            raise InputError(f"{option} {item}: expected {TYPED.get(option, 'NAME=VALUE')}")
        if key in found:
            raise InputError(f"{option} {item}: {key}={found[key]} is given already; give each once")
        found[key] = value
    return list(found.items())


TYPED = {"--sample-axis": "NAME=AXIS"}
"""What is typed of options that are no NAME=VALUE."""
READ: Mapping[str, Callable[[Any], Any]] = {
    "budget": limits,
    "budgets": parts,
    "confidence": confidence,
    "memory": parse_size,
    "only": names,
    "options": lambda given: dict(pairs("--set", given)),
    "sample_axis": sample_axis,
    "shapes": shapes,
    "skip": names,
}
"""What makes values of what is typed."""
COMPLETED: Mapping[str, Callable[[str], Any]] = {
    "budget": completion.budget,
    "metric": completion.metric,
    "only": completion.rewrites,
    "preprocess": completion.preset,
    "require": completion.gate,
    "skip": completion.rewrites,
}
"""What a shell may complete."""


# ---------------------------------------------------------------- files and streams


def summarise(markdown: Callable[[], str]) -> None:
    """Adds Markdown to the summary of a job of GitHub Actions, in one.

    It is a courtesy, so that a failure is told and is no error.
    """
    path = step_summary()
    if path is None:
        return
    text = markdown()
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"\n{text}\n" if file.tell() else f"{text}\n")
    except OSError as error:
        complain(f"$GITHUB_STEP_SUMMARY {show(path)}: can't be written: {reason(error)}")


def tell(kind: str, result: object, *aside: object, json: bool) -> None:
    """Prints a result as one JSON document, or as text.

    Args:
        kind: the function's name that makes either, in `graphopt.report.json` and `graphopt.report.text`.
        result: what is told.
        aside: what the text says besides.
        json: whether the document is printed.
    """
    from graphopt.report import json as documents
    from graphopt.report import text

    if json:
        emit(documents.dumps(getattr(documents, kind)(result)))
    else:
        getattr(text, kind)(result, *aside)


def emit(document: str) -> None:
    """Prints a document to standard output."""
    sys.stdout.write(document + "\n")


def complain(error: str) -> None:
    """Prints an error that does not end the command: one line on standard error."""
    sys.stdout.flush()  # in the order in which things happened
    sys.stderr.write(f"graphopt: {printable(' '.join(error.split()))}\n")

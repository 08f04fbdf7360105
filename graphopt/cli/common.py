"""What the commands share: their common options, how values are parsed, and what is written where."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli import completion
from graphopt.errors import InputError, percentage
from graphopt.files import reason, show
from graphopt.jobs.outcome import step_summary


class ExternalData(str, Enum):
    """Where weights go."""

    auto = "auto"
    always = "always"
    never = "never"


class Aims(str, Enum):
    """Which exact rewrites are taken."""

    time = "time"
    macs = "macs"


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX model.")]
Reference = Annotated[Path, typer.Argument(metavar="REFERENCE", help="The original model.")]
Candidate = Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The rewritten model.")]
Before = Annotated[Path, typer.Argument(metavar="A", help="The model as it was.")]
After = Annotated[Path, typer.Argument(metavar="B", help="The model as it is.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress: the result and errors alone.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of everything random.", min=0)]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1x3x224x224", help="Size of an input. Repeatable."),
]
Calibration = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Preprocessed inputs: .npz, .npy, or a folder of them or of images."),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="PRESET|FILE.toml",
        autocompletion=completion.preset,
        help="How images become inputs, such as imagenet.",
    ),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        autocompletion=completion.budget,
        help="What the result has to reach, such as macs=0.7. Repeatable.",
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY<=VALUE",
        autocompletion=completion.gate,
        help="What the result has to keep, such as 'macs<=0.8' or 'agreement>=0.99'. Repeatable.",
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="A,B", autocompletion=completion.rewrites, help="Only these rewrites."),
]
Skip = Annotated[
    list[str] | None,
    typer.Option(metavar="A,B", autocompletion=completion.rewrites, help="Not these rewrites."),
]
Aim = Annotated[
    Aims, typer.Option(help="Exact rewrites that are expected to be faster, or all that save MACs.")
]
Keep = Annotated[
    list[str] | None, typer.Option(metavar="NODE_GLOB", help="Never rewrite these nodes. Repeatable.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and verify, and write no model.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE.html", help="Write the report as a page.")]
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION", help="Your own measure: a function from a model's path to a number."
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(metavar="BYTES", help="For activations while fitting, such as 4G; more lies in files."),
]
Outputs = Annotated[
    list[str] | None, typer.Option("--output", metavar="NAME", help="An output that counts. Repeatable.")
]


# ---------------------------------------------------------------- options


def names(lists: list[str] | None) -> list[str]:
    """Names of comma-separated lists."""
    return [name for part in lists or () for name in part.split(",") if name]


def parse(budget: list[str] | None, settings: list[str] | None, shape: list[str] | None) -> dict[str, Any]:
    """The values of --budget, --set and --shape.

    Raises:
        InputError: one can't be read.
    """
    limits: dict[str, float] = {}
    for key, text in pairs("--budget", budget):
        try:
            limits[key] = float(text)
        except ValueError:
            part = percentage(text)
            meant = "" if part is None else f"; did you mean {key}={part:g}?"
            raise InputError(f"--budget {key}={text}: {text!r} is no number{meant}") from None
    return {
        "budget": limits,
        "set": dict(pairs("--set", settings)),
        "shapes": shapes(shape),
    }


def shapes(given: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Input sizes by name, from NAME=1x3x224x224."""
    found: dict[str, tuple[int, ...]] = {}
    for name, text in pairs("--shape", given):
        sizes = text.lower().split("x")
        if not all(size.isdigit() and int(size) > 0 for size in sizes):
            raise InputError(f"--shape {name}={text}: expected positive sizes such as 1x3x224x224")
        found[name] = tuple(int(size) for size in sizes)
    return found


def memory(given: str | None) -> int | None:
    """Bytes of a size such as 4G or 512M.

    Raises:
        InputError: it can't be read.
    """
    if given is None:
        return None
    from graphopt.runtime.memory import parse_bytes

    try:
        return parse_bytes(given)
    except ValueError:
        raise InputError(f"--memory {given}: expected a size such as 4G or 512M") from None


def pairs(option: str, given: list[str] | None) -> list[tuple[str, str]]:
    """The (NAME, VALUE) of each NAME=VALUE of an option."""
    found: dict[str, str] = {}
    for item in given or ():
        key, equals, value = item.rpartition("=") if option == "--shape" else item.partition("=")
        if not (key and equals and value):
            raise InputError(f"{option} {item}: expected NAME=VALUE")
        if key in found:
            raise InputError(f"{option} {item}: {key}={found[key]} is given already; give each once")
        found[key] = value
    return list(found.items())


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


def emit(document: str) -> None:
    """Prints a document to standard output."""
    sys.stdout.write(document + "\n")


def complain(error: str) -> None:
    """Prints an error that does not end the command: one line on standard error."""
    sys.stdout.flush()  # in the order in which things happened
    sys.stderr.write(f"graphopt: {' '.join(error.split())}\n")

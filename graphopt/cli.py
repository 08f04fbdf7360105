"""The command line. Heavy imports stand inside the commands, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphopt._version import __version__
from graphopt.errors import BudgetError, GraphOptError, InputError, VerificationError

if TYPE_CHECKING:
    from graphopt.report import Report
    from graphopt.result import Result

INTERRUPTED = 130
"""The exit code after Ctrl-C."""

typer_app = typer.Typer(
    name="graphopt",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ExternalData(str, Enum):
    """Where weights go."""

    auto = "auto"
    always = "always"
    never = "never"


class Aim(str, Enum):
    """Which exact rewrites are taken."""

    time = "time"
    macs = "macs"


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The ONNX model.")]
Reference = Annotated[Path, typer.Argument(metavar="REFERENCE", help="The original model.")]
Candidate = Annotated[Path, typer.Argument(metavar="CANDIDATE", help="The rewritten model.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0)]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME=1x3x224x224", help="Size of an input. Repeatable."),
]
Calibration = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Preprocessed inputs: .npz, .npy, or a folder of them."),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="What the result has to reach, such as macs=0.7. Repeatable."),
]
Outputs = Annotated[
    list[str] | None, typer.Option("--output", metavar="NAME", help="An output that counts. Repeatable.")
]


def app() -> int:
    """Runs the command line; usage errors become `InputError`."""
    command = typer.main.get_command(typer_app)
    try:
        code = command.main(prog_name="graphopt", standalone_mode=False) or 0
    except SystemExit as end:  # how typer ends when the reader of a pipe is gone, and after completions
        if end.code != 1:
            raise
        raise BrokenPipeError from end
    except Exception as error:
        shown = getattr(error, "format_message", None)
        if shown is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{shown()}\n")
            return 2
        raise InputError(f"{shown()} (see graphopt --help)") from error
    if code == INTERRUPTED:  # how typer returns from Ctrl-C
        raise KeyboardInterrupt
    return code


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphopt {__version__}")
        raise typer.Exit


@typer_app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Makes the convolutions of ONNX models cheaper with 1x1 convolutions, and proves it."""


@typer_app.command()
def scan(
    model: Model,
    json: Json = False,
    shape: Shapes = None,
    seed: Seed = 0,
) -> int:
    """Count what each convolution costs, and show what could be done about it.

    Example: graphopt scan model.onnx
    """
    from graphopt import api
    from graphopt.report import json as documents
    from graphopt.report import text

    found = api.scan(model, shapes=_shapes(shape), seed=seed)
    if json:
        _emit(documents.dumps(documents.scan(found)))
    else:
        text.scan(found)
    return 0


@typer_app.command()
def optimize(
    model: Model,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="OUT", help="The model to write.")
    ] = None,
    calibration: Calibration = None,
    budget: Budget = None,
    only: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Only these rewrites.")] = None,
    skip: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Not these rewrites.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="REWRITE.OPTION=VALUE", help="An option of a rewrite. Repeatable."),
    ] = None,
    at: Annotated[
        list[str] | None, typer.Option(metavar="NODE_GLOB", help="Rewrite only these nodes. Repeatable.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(metavar="NODE_GLOB", help="Never rewrite these nodes. Repeatable.")
    ] = None,
    output: Outputs = None,
    aim: Annotated[
        Aim, typer.Option(help="Exact rewrites that are expected to be faster, or all that save MACs.")
    ] = Aim.time,
    gate: Annotated[
        str | None, typer.Option(metavar="latency", help="Measure each changed region, drop what is slower.")
    ] = None,
    freeze_initializers: Annotated[
        bool, typer.Option("--freeze-initializers", help="Initializers that are also inputs are constants.")
    ] = False,
    external_data: Annotated[
        ExternalData, typer.Option(help="Whether weights go to OUT.data.")
    ] = ExternalData.auto,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and verify, and write no model.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the report.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Not supported yet.")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Not supported yet.")] = None,
    json: Json = False,
    shape: Shapes = None,
    seed: Seed = 0,
) -> int:
    """Make the convolutions cheaper, verify the result, and write it.

    Exact rewrites alone, unless a budget is given.

    Example: graphopt optimize model.onnx -o smaller.onnx --budget macs=0.7 --calibration inputs.npz
    """
    for name, value in (("--html", html), ("--markdown", markdown)):
        if value is not None:
            raise InputError(f"{name} is not supported yet; --report writes the report as JSON")
    if out is None and not dry_run:
        raise InputError("optimize needs -o OUT, or --dry-run to write no model")
    _check_writable(out, report, model)
    options = _options(budget, set_, shape)
    error: GraphOptError | None = None
    try:
        from graphopt import api

        result: Result = api.optimize(
            model,
            options["budget"],
            calibration,
            aim=aim.value,
            only=_names(only),
            skip=_names(skip),
            at=at or (),
            keep=keep or (),
            outputs=output or (),
            options=options["set"],
            shapes=options["shapes"],
            seed=seed,
            gate=gate,
            freeze_initializers=freeze_initializers,
        )
        if out is not None and not dry_run:
            result.save(out, external_data=external_data.value)
    except (BudgetError, VerificationError) as failure:
        error, result = failure, failure.result
    code = 0 if error is None else error.exit_code
    _show(result.report, code, report, json, None if dry_run or error else out)
    if error is not None:
        raise error
    return 0


def _show(report: Report, code: int, file: Path | None, json: bool, out: Path | None) -> None:
    """Prints the report, and writes it where it was asked for."""
    from graphopt.report import json as documents
    from graphopt.report import text

    if json or file is not None:
        document = documents.dumps(documents.report(report, code))
        if file is not None:
            _write(file, document)
        if json:
            _emit(document)
    if not json:
        text.report(report, out)


@typer_app.command()
def verify(
    reference: Reference,
    candidate: Candidate,
    calibration: Calibration = None,
    budget: Budget = None,
    output: Outputs = None,
    json: Json = False,
    shape: Shapes = None,
    seed: Seed = 0,
) -> int:
    """Compare two models by running both: equal up to rounding, or as close as a quality budget asks.

    Example: graphopt verify model.onnx smaller.onnx --calibration inputs.npz --budget agreement=0.98
    """
    options = _options(budget, None, shape)
    from graphopt import api
    from graphopt.report import json as documents
    from graphopt.report import text

    found = api.verify(
        reference,
        candidate,
        calibration,
        budget=options["budget"],
        outputs=output or (),
        shapes=options["shapes"],
        seed=seed,
    )
    if json:
        _emit(documents.dumps(documents.verification(found)))
    else:
        text.verification(found)
    return 0 if found else 1


@typer_app.command()
def bench(
    reference: Reference,
    candidate: Candidate,
    threads: Annotated[int, typer.Option(help="Threads that one operator may use.")] = 1,
    repeat: Annotated[int, typer.Option(help="Pairs of runs.")] = 50,
    provider: Annotated[str, typer.Option(help="onnxruntime's provider.")] = "CPUExecutionProvider",
    json: Json = False,
    shape: Shapes = None,
    seed: Seed = 0,
) -> int:
    """Time two models in onnxruntime, in turn, so that a busy machine slows both.

    Example: graphopt bench model.onnx smaller.onnx
    """
    from graphopt import api
    from graphopt.report import json as documents
    from graphopt.report import text

    found = api.bench(
        reference,
        candidate,
        threads=threads,
        repeat=repeat,
        provider=provider,
        shapes=_shapes(shape),
        seed=seed,
    )
    if json:
        _emit(documents.dumps(documents.timing(found)))
    else:
        text.timing(found)
    return 0


@typer_app.command()
def rewrites(json: Json = False) -> int:
    """List the rewrites and their options.

    Example: graphopt rewrites
    """
    from graphopt import rewrites as catalogue
    from graphopt.report import json as documents
    from graphopt.report import text

    available = list(catalogue.registry().values())
    if json:
        _emit(documents.dumps(documents.rewrites(available)))
    else:
        text.rewrites(available)
    return 0


@typer_app.command()
def explain(rewrite: Annotated[str, typer.Argument(metavar="REWRITE", help="The rewrite's name.")]) -> int:
    """Explain a rewrite: what it does, its maths, when it applies, how exact it is, what it costs.

    Example: graphopt explain bottleneck
    """
    from graphopt import rewrites as catalogue

    (found,) = catalogue.select(catalogue.registry(), only=[rewrite])
    typer.echo(catalogue.explain(found))
    return 0


# ---------------------------------------------------------------- options


def _names(lists: list[str] | None) -> list[str]:
    """Names of comma-separated lists."""
    return [name for part in lists or () for name in part.split(",") if name]


def _options(budget: list[str] | None, settings: list[str] | None, shape: list[str] | None) -> dict[str, Any]:
    limits: dict[str, float] = {}
    for key, text in _pairs("--budget", budget):
        try:
            limits[key] = float(text)
        except ValueError:
            raise InputError(f"--budget {key}={text}: {text!r} is no number") from None
    return {
        "budget": limits,
        "set": dict(_pairs("--set", settings)),
        "shapes": _shapes(shape),
    }


def _shapes(given: list[str] | None) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, text in _pairs("--shape", given):
        sizes = text.lower().split("x")
        if not all(size.isdigit() and int(size) > 0 for size in sizes):
            raise InputError(f"--shape {name}={text}: expected positive sizes such as 1x3x224x224")
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes


def _pairs(option: str, given: list[str] | None) -> list[tuple[str, str]]:
    pairs = []
    for item in given or ():
        key, equals, value = item.rpartition("=") if option == "--shape" else item.partition("=")
        if not (key and equals and value):
            raise InputError(f"{option} {item}: expected NAME=VALUE")
        pairs.append((key, value))
    return pairs


# ---------------------------------------------------------------- files and streams


def _check_writable(out: Path | None, report: Path | None, model: Path) -> None:
    """Refuses paths that can't be written before any work is done."""
    from graphopt.model import check_output

    if out is not None:
        check_output(out, [model])
    if report is not None:
        check_output(report, [path for path in (model, out) if path is not None])


def _write(path: Path, text: str) -> None:
    """Writes a text file; it is there whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror}") from error
    finally:
        beside.unlink(missing_ok=True)


def _emit(document: str) -> None:
    sys.stdout.write(document + "\n")

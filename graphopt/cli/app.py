"""The command line put together, and the ways in which it ends."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from graphopt._version import __version__
from graphopt.cli.commands.bench import bench
from graphopt.cli.commands.diff import diff
from graphopt.cli.commands.explain import explain
from graphopt.cli.commands.optimize import optimize
from graphopt.cli.commands.provenance import provenance
from graphopt.cli.commands.rewrites import rewrites
from graphopt.cli.commands.scan import scan
from graphopt.cli.commands.sensitivity import sensitivity
from graphopt.cli.commands.several.batch import batch
from graphopt.cli.commands.several.check import check
from graphopt.cli.commands.several.run import run
from graphopt.cli.commands.sweep import sweep
from graphopt.cli.commands.tune import tune
from graphopt.cli.commands.verify import verify
from graphopt.errors import INTERRUPTED, InputError
from graphopt.runtime.limits import threads

COMMANDS = (
    scan,
    optimize,
    run,
    batch,
    sensitivity,
    sweep,
    tune,
    verify,
    bench,
    diff,
    check,
    provenance,
    rewrites,
    explain,
)
"""In the order in which ``--help`` lists them."""

typer_app = typer.Typer(
    name="graphopt",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def app() -> int:
    """Runs the command line; usage errors become `InputError`."""
    command = typer.main.get_command(typer_app)
    try:
        code = command.main(prog_name="graphopt", standalone_mode=False) or 0
    except Exception as error:
        shown = getattr(error, "format_message", None)
        if shown is None:
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{shown()}\n")
            return 2
        context = getattr(error, "ctx", None)
        path = "graphopt" if context is None else context.command_path
        raise InputError(f"{shown().replace('Value error, ', '')} (see {path} --help)") from error
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
    threads.default()  # refused here, since a session that can't be made is taken for the model's fault


for _command in COMMANDS:
    typer_app.command()(_command)

"""``graphopt check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.errors import InputError, StoppedError, gravest
from graphopt.files import show


@common.takes("models fix aim only skip keep json quiet shapes seed")
def check(
    *,
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="The ONNX models.")],
    fix: Annotated[
        bool, typer.Option("--fix", help="Put the rewritten models in the place of their files.")
    ] = False,
    json: bool,
    quiet: bool,
    **asked: Any,
) -> int:
    """Find models that exact rewrites would make cheaper.

    Exits 3 when there is one, such as in a hook before a commit. With --fix it is rewritten, if the result
    verifies.

    Example: graphopt check model.onnx other.onnx
    """
    only = asked.get("only", ())
    from graphopt.jobs import check as checking
    from graphopt.report import text
    from graphopt.report.results import Checked
    from graphopt.rewrites import registry as catalogue
    from graphopt.types import Exactness

    # A wrong name is no model's fault.
    for rewrite in catalogue.select(catalogue.registry(), only=only, skip=asked.get("skip", ())):
        if rewrite.name in only and rewrite.exactness is not Exactness.EXACT:
            raise InputError(
                f"--only {rewrite.name}: it is {rewrite.exactness.value}, and check is about exact ones"
            )
    found: list[Checked] = []
    for path in models:
        try:
            with shown(quiet=quiet, json=json):
                each = checking.check(path, fix=fix, **asked)
        except KeyboardInterrupt as error:
            rewritten = sum(earlier.fixed for earlier in found)
            if not rewritten:
                raise
            where = f"interrupted at {show(path)}"
            raise StoppedError(f"{where}; {rewritten} of the models before it were rewritten") from error
        found.append(each)
        if not json:
            text.checked(each)
        if each.error:
            common.complain(each.error)
    common.tell("check", found, json=json)
    return gravest(each.exit_code for each in found)

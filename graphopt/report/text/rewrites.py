"""The catalogue of rewrites, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.report.text.common import escape, terminal
from graphopt.rewrites.base import Rewrite
from graphopt.rewrites.registry import is_default, option_types, summary


def rewrites(available: Sequence[Rewrite]) -> None:
    """Prints name, exactness, summary and options of each rewrite."""
    console = terminal()
    for rewrite in available:
        state = rewrite.exactness.value + ("" if is_default(rewrite) else ", on request")
        console.print(f"[bold]{rewrite.name}[/] ({state})")
        console.print(escape(f"  {summary(rewrite)}"))
        for name, (type_, default) in option_types(rewrite).items():
            shown = "chosen by the plan" if default is None else default
            console.print(escape(f"  --set {rewrite.name}.{name}={type_} (default: {shown})"), style="dim")

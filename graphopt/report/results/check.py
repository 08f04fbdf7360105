"""What became of one model of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from graphopt.types import Totals


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one model; truthy when nothing is left to do.

    Attributes:
        path: its file.
        before: its figures; None where it could not be read.
        after: the figures that exact rewrites give it.
        rewrites: how often each of them applies, by name.
        fixed: whether the file was rewritten.
        note: what was left undone: at weights that a caller may override, and about its files; or "".
        error: why it could not be checked, or not be rewritten; "" where it was.
        exit_code: of this model alone.
    """

    path: Path
    before: Totals | None = None
    after: Totals | None = None
    rewrites: Mapping[str, int] = field(default_factory=dict)
    fixed: bool = False
    note: str = ""
    error: str = ""
    exit_code: int = 0

    def __bool__(self) -> bool:
        return self.exit_code == 0

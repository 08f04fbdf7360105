"""How tasks ended, as plain data that every face of a batch reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended, as plain data.

    Attributes:
        model: the model that the task was about.
        exit_code: of the command that does this task alone.
        error: why that is not 0, in one line; "" when it is.
        seconds: how long it took.
        written: the model that was written.
        report: the report's document; None where there is none.
        markdown: the summary of the report; "" where there is none.
        junit: the same as test results.
    """

    model: Path
    exit_code: int
    error: str = ""
    seconds: float = 0.0
    written: Path | None = None
    report: Mapping[str, Any] | None = None
    markdown: str = ""
    junit: str = ""

    def __bool__(self) -> bool:
        return self.exit_code == 0

"""What `graphopt.optimize` returns."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.model import io
from graphopt.report import Report


@dataclass(frozen=True)
class Result:
    """A rewritten model and the report of how it came about; truthy when something changed.

    Attributes:
        model: the model in memory.
        report: what was done, with its figures.
        before: the snapshot of the input that the figures were read off.
        after: the same of the result.
    """

    model: ir.Model
    report: Report
    before: Analysis = field(repr=False)
    after: Analysis = field(repr=False)

    def __bool__(self) -> bool:
        return self.report.changed

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        external_data: Literal["auto", "always", "never"] = "auto",
    ) -> None:
        """Writes the model; it is there whole or not at all. An unchanged model is copied byte for byte.

        Args:
            path: the file to write. It must not be the file that was read.
            external_data: whether weights go to ``PATH.data``: where they must, always, or never.

        Raises:
            InputError: the path can't be written, or is the input.
        """
        source = self.report.source
        io.check_output(path, source.files)
        if not self.report.changed and external_data == "auto":
            io.copy(source, path)
        else:
            io.save(self.model, path, external_data=external_data, source=source)

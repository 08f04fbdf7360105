"""The user's own measure: a function from the path of a model to a number, the larger the better."""

from __future__ import annotations

import math
import reprlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir

from graphopt.errors import InputError, Named
from graphopt.files import own_function
from graphopt.model import io


class OwnMetric:
    """A measure that the user names.

    Args:
        name: ``package.module:function``.
        folder: where the module is looked for besides Python's path; the current folder where not given.

    Raises:
        InputError: the name has another form.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.name = name
        self._folder = folder
        module, _, function = name.partition(":")
        if not module or not function:
            raise InputError(f"{Named('metric', name)}: expected package.module:function")

    def load(self) -> Callable[[str], float]:
        """The function itself.

        Raises:
            InputError: there is no such function.
        """
        return own_function(Named("metric", self.name), self.name, self._folder)

    def __call__(self, model: ir.Model) -> float:
        """What the function says of a model, which it gets as a file.

        Raises:
            InputError: it fails, or returns no finite number.
        """
        function = self.load()
        with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
            path = Path(folder) / "model.onnx"
            io.save(model, path)
            try:
                value = function(str(path))
            except (Exception, SystemExit) as error:
                raise InputError(
                    f"{Named('metric', self.name)} failed: {type(error).__name__}: {error}"
                ) from error
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise InputError(
                f"{Named('metric', self.name)} returned {reprlib.repr(value)}, which is no finite number"
            )
        return number

"""The user's own calibration inputs: a function that returns them, named as ``package.module:function``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from graphopt.errors import InputError, Named
from graphopt.files import kind_of, own_function

FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""How such a name looks."""


def is_function(name: str | os.PathLike[str], folder: Path | None = None) -> bool:
    """Whether a name is that of a function, and not that of a file or folder.

    Raises:
        InputError: that can't be told.
    """
    return FORM.fullmatch(os.fspath(name)) is not None and not kind_of((folder or Path()) / name)


class OwnInputs:
    """Calibration inputs that a function returns: whatever `graphopt.optimize` takes.

    Args:
        name: ``package.module:function``.
        folder: where the module is looked for besides Python's path; the current folder where not given.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        self.name = name
        self._folder = folder

    @property
    def file(self) -> Path:
        """Where the module is, if it is in the folder."""
        return (self._folder or Path()) / f"{self.name.partition(':')[0].replace('.', os.sep)}.py"

    def __call__(self) -> Any:
        """What the function returns.

        Raises:
            InputError: there is no such function, or it fails.
        """
        named = Named("calibration", self.name)
        function = own_function(named, self.name, self._folder)
        try:
            return function()
        except (Exception, SystemExit) as error:  # whatever a user's code does
            raise InputError(f"{named} failed: {type(error).__name__}: {error}") from error

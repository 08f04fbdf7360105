"""Arrays that may not fit into memory: what is over a limit lies in files, mapped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


class Store:
    """Lists of arrays by name. Use it as a context manager: the files go when it ends.

    Args:
        limit: bytes to hold in memory; what comes beyond is put into temporary files.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._arrays: dict[str, list[npt.NDArray[Any]]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._files = 0
        self.spilled = 0
        """Bytes that were put into files so far."""

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._arrays.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> list[npt.NDArray[Any]]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def add(self, name: str, array: npt.NDArray[Any]) -> None:
        """Appends an array to a list."""
        if self._held + array.nbytes > self._limit and array.nbytes:
            array = self._spill(array)
        else:
            self._held += array.nbytes
        self._arrays.setdefault(name, []).append(array)

    def drop(self, name: str) -> None:
        """Forgets a list, and deletes its files."""
        for array in self._arrays.pop(name, ()):
            if isinstance(array, np.memmap):
                assert array.filename is not None
                Path(array.filename).unlink()
            else:
                self._held -= array.nbytes

    def _spill(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="graphopt-")
        self._files += 1
        self.spilled += array.nbytes
        path = Path(self._folder.name) / f"{self._files}.npy"
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=array.dtype, shape=array.shape)
        mapped[...] = array
        mapped.flush()
        return mapped

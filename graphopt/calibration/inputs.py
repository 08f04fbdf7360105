"""Calibration inputs: reading, checking and splitting them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.shapes.inputs import fixed, takes_array
from graphopt.calibration import images, inspection
from graphopt.calibration.images import Images
from graphopt.errors import InputError
from graphopt.files import kind_of, require_file
from graphopt.runtime import session
from graphopt.runtime.session import Feeds

Given: TypeAlias = "str | os.PathLike[str] | Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any] | Images"
"""Calibration inputs as a caller may give them: a path, arrays by input name, one array, or images."""

ONE_HELD_OUT_OF = 4
"""One of so many inputs is held out, and the others are fitted to. Measured by benchmarks.thresholds: with 2,
4 and 8 a network of 128 inputs kept 33.3, 33.9 and 34.7 dB, four seeds alone give 33.5 to 34.5; with 8 half
as many are left to measure quality on, see `SMALL_SAMPLE`."""
BATCH = 32
"""Inputs run at once where the model leaves the batch open; results do not depend on it but by rounding and
by the positions that are sampled."""
STARTS = (b"\x93NUMPY", b"PK")
"""How .npy and .npz files begin."""
SMALL_SAMPLE = 64
"""Held-out inputs under which figures of quality are uncertain: derived, of 64 that all agree the 95 %
interval (Wilson 1927) still reaches down to 94.3 %."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration inputs, split.

    Attributes:
        fit: the inputs to fit on, by model input.
        held_out: the inputs to measure on.
        batch: inputs to run at once.
        fixed: whether the model takes exactly ``batch`` inputs, so that a rest that is smaller is left out.
        empty: why nothing can be learnt of them; "" where something can.
        doubts: what is odd about them.
    """

    fit: Feeds
    held_out: Feeds
    batch: int
    fixed: bool
    empty: str = ""
    doubts: tuple[str, ...] = ()

    @property
    def fitted(self) -> int:
        """Number of inputs to fit on."""
        return _count(self.fit)

    @property
    def samples(self) -> int:
        """Number of held-out inputs."""
        return _count(self.held_out)

    @property
    def sha256(self) -> str:
        """Of the inputs, whatever their order and however they are split: of the samples' digests, sorted."""
        samples = []
        for part in (self.fit, self.held_out):
            for number in range(_count(part)):
                digest = hashlib.sha256()
                for name, array in sorted(part.items()):
                    digest.update(f"{name}\0{array.dtype} {array.shape[1:]}\0".encode())
                    digest.update(array[number].tobytes())
                samples.append(digest.digest())
        return hashlib.sha256(b"".join(sorted(samples))).hexdigest()

    def batches(self, feeds: Feeds) -> Iterator[Feeds]:
        """The inputs, as many at once as the model takes."""
        for part in session.batches(feeds, self.batch):
            if not self.fixed or _count(part) == self.batch:
                yield part

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each model input; an open batch counts as 1."""
        batch = self.batch if self.fixed else 1
        return {name: (batch, *array.shape[1:]) for name, array in self.fit.items()}

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of each model input that has values."""
        filled = {name: array for name, array in self.fit.items() if array.size}
        return {name: (float(array.min()), float(array.max())) for name, array in filled.items()}


def affordable(total: float, macs: int | None, passes: float, least: int, most: int) -> int:
    """How many inputs can be run.

    Args:
        total: multiply-accumulates that all may take, about.
        macs: of the model for one input; None where unknown.
        passes: over the model that one input takes.
        least: number of inputs at least.
        most: and at most, which counts before the least.

    Returns:
        The number of inputs.
    """
    return min(most, max(least, int(total / max(1.0, passes * (macs or 1)))))


def _count(feeds: Feeds) -> int:
    return min((len(array) for array in feeds.values()), default=0)


def load(given: Given, model: ir.Model, seed: int) -> Calibration:
    """Reads calibration inputs, checks them against the model, and splits them 3:1.

    Args:
        given: files, folders or arrays.
        model: the model to be fed.
        seed: of the split.

    Returns:
        A quarter of the inputs, held out, and the others to fit on.

    Raises:
        InputError: a file can't be read, or an array is missing, extra, misshaped or of the wrong type.
    """
    feeds, batch = read(given, model)
    given_count = count = _count(feeds)
    fixed = batch is not None
    empty, doubts = inspection.emptiness(feeds), list(inspection.doubts(feeds))
    different = inspection.distinct(feeds)
    if len(different) < 2 <= count:
        empty = empty or f"the {count} inputs are all the same one, and quality is measured on others"
    elif len(different) < count and not empty:
        doubts.append(f"{count - len(different)} of {count} inputs repeat others, and are left out")
        feeds = {name: array[different] for name, array in feeds.items()}
        count = len(different)
    held = max(count // ONE_HELD_OUT_OF, 1)
    if batch is not None:
        held = max(held // batch, 1) * batch
    if count - held < (batch or 1):
        few = f"{count} inputs" if count == given_count else f"{count} different inputs, of {given_count},"
        raise InputError(f"calibration: {few} are too few to fit on some and hold others out")
    order = np.random.default_rng(seed).permutation(count)
    fit, held_out = order[held:], np.sort(order[:held])  # any part of those to fit on is a fair sample
    return Calibration(
        {name: array[fit] for name, array in feeds.items()},
        {name: array[held_out] for name, array in feeds.items()},
        batch or BATCH,
        fixed,
        empty,
        () if empty else tuple(doubts),
    )


def whole(given: Given, model: ir.Model) -> Calibration:
    """Reads calibration inputs to measure on, all of them; nothing is fitted, so none has to be held out.

    Raises:
        InputError: as `load`.
    """
    feeds, batch = read(given, model)
    if batch is not None and _count(feeds) < batch:
        raise InputError(f"calibration: {_count(feeds)} inputs are too few: the model takes {batch} at once")
    return Calibration(feeds, feeds, batch or BATCH, batch is not None)


def read(given: Given, model: ir.Model) -> tuple[Feeds, int | None]:
    """The inputs as the model takes them, and its batch size where that is fixed.

    Raises:
        InputError: as `load`.
    """
    where, arrays = _arrays(given, model)
    inputs = {value.name or "": value for value in model.graph.inputs if not value.is_initializer()}
    for name, value in inputs.items():
        if not takes_array(value):
            raise InputError(f"{where}: the model's input {name!r} takes {value.type}, and no array")
    if len(arrays) == 1 and len(inputs) == 1:
        arrays = {next(iter(inputs)): next(iter(arrays.values()))}
    for name in inputs:
        if name not in arrays:
            raise InputError(f"{where}: no array for the model's input {name!r}; it holds {_listed(arrays)}")
    for name in arrays:
        if name not in inputs:
            raise InputError(f"{where}: the model has no input {name!r}; its inputs are {_listed(inputs)}")
    feeds = {name: _fitting(where, value, arrays[name]) for name, value in inputs.items()}
    counts = {name: len(array) for name, array in feeds.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"{where}: the inputs have different numbers of samples: {counts}")
    batches = {
        size
        for value in inputs.values()
        if value.shape is not None and len(value.shape) and (size := fixed(value.shape[0])) is not None
    }
    return feeds, max(batches) if batches else None


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"


def _arrays(given: Given, model: ir.Model) -> tuple[str, dict[str, npt.NDArray[Any]]]:
    """Where the arrays come from, and the arrays by key."""
    if isinstance(given, Images):
        return str(given.folder), given.load(model)
    if isinstance(given, np.ndarray):
        return "calibration", {"": given}
    if isinstance(given, Mapping):
        return "calibration", {name: np.asarray(array) for name, array in given.items()}
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(
            f"calibration: expected a path, an array, or arrays by input name, and not {type(given).__name__}"
        )
    path = Path(given)
    if kind_of(path) != "folder":
        return str(path), _read_file(path)
    images.refuse(path)
    files = sorted(p for p in path.iterdir() if p.suffix in (".npy", ".npz"))
    if not files:
        raise InputError(f"{path}: the folder holds no .npy or .npz file")
    parts = [_read_file(file) for file in files]
    keys = set(parts[0])
    odd = next((file for file, part in zip(files, parts, strict=True) if set(part) != keys), None)
    if odd is not None:
        raise InputError(f"{odd}: its arrays are not those of {files[0].name}: {_listed(parts[0])}")
    try:
        return str(path), {key: np.concatenate([part[key] for part in parts]) for key in sorted(keys)}
    except ValueError as error:
        raise InputError(f"{path}: the files' arrays don't fit together: {error}") from error


def _read_file(path: Path) -> dict[str, npt.NDArray[Any]]:
    require_file(path, "calibration file")
    try:
        with open(path, "rb") as file:
            start = file.read(max(map(len, STARTS)))
        if not start.startswith(STARTS):
            raise InputError(f"{path}: no readable .npz or .npy file: it begins unlike both")
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except InputError:
        raise
    except Exception as error:  # NumPy raises many kinds for damaged files
        raise InputError(f"{path}: no readable .npz or .npy file: {session.one_line(error)}") from error


def _fitting(where: str, value: ir.Value, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in the input's type, checked against its shape."""
    name = f"{where}: array for input {value.name!r}"
    wanted = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32)
    if array.ndim == 0 or not len(array):
        raise InputError(f"{name} holds no samples")
    if wanted.kind in "fV" and array.dtype.kind != "f":
        raise InputError(
            f"{name} is {array.dtype}, the model takes {wanted}: give inputs that are preprocessed already"
        )
    if wanted.kind not in "fV" and array.dtype.kind != wanted.kind:
        raise InputError(f"{name} is {array.dtype}, the model takes {wanted}")
    if value.shape is not None:
        declared = [fixed(d) for d in value.shape]
        fits = len(declared) == array.ndim and all(
            d is None or d == n for d, n in zip(declared[1:], array.shape[1:], strict=True)
        )
        if not fits:
            shape = ["N", *("?" if d is None else d for d in declared[1:])]
            raise InputError(f"{name} has shape {list(array.shape)}, the model takes {shape}")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        bad = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
        raise InputError(f"{name} has values that are not finite, in {bad} of {len(array)} samples")
    with np.errstate(over="ignore"):
        cast = array.astype(wanted, copy=False)
    if wanted.kind == "f" and not np.all(np.isfinite(cast)):
        raise InputError(f"{name} has values that {wanted} can't hold")
    return cast

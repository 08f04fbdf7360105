"""What is given as calibration inputs: arrays by input name, from files, folders, lists and images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.calibration import images
from graphopt.calibration.batch_axis import Slot
from graphopt.calibration.images import Images
from graphopt.calibration.sources import streams
from graphopt.calibration.sources.own import OwnInputs
from graphopt.calibration.telling_apart import with_batch
from graphopt.errors import InputError
from graphopt.files import kind_of, require_file
from graphopt.runtime import session
from graphopt.runtime.session import Feeds

Arrays: TypeAlias = "Mapping[str, npt.NDArray[Any]]"
"""Arrays by input name."""
Given: TypeAlias = (
    "str | os.PathLike[str] | Arrays | npt.NDArray[Any] | Iterable[Any] | CalibrationDataReader | Images | "
    "OwnInputs"
)
"""Calibration inputs as a caller may give them: a path, arrays by input name, one array where the model has
one input; whatever yields those with a sample or several each: a list, a generator, a loader, a dataset, a
reader of onnxruntime; images; or a function that returns any of these."""


class CalibrationDataReader(Protocol):
    """What onnxruntime's quantisation reads inputs from."""

    def get_next(self) -> Mapping[str, npt.NDArray[Any]] | None:
        """The next inputs by name; None at the end."""
        ...


STARTS = (b"\x93NUMPY", b"PK")
"""How .npy and .npz files begin."""


def parts(given: Any, model: ir.Model, places: Sequence[Slot]) -> tuple[str, list[tuple[str, Arrays]]]:
    """What is given, file by file.

    Args:
        given: the inputs, of which what yields samples is a list.
        model: the model to be fed.
        places: its inputs.

    Returns:
        Where the arrays come from, and for each file, or each of a list, its name and its arrays by key.

    Raises:
        InputError: a file can't be read, or one of a folder is unlike the others.
    """
    if isinstance(given, Images):
        return str(given.folder), [(str(given.folder), given.load(model))]
    if isinstance(given, np.ndarray):
        return "calibration", [("calibration", {"": given})]
    if isinstance(given, Mapping):
        return "calibration", [("calibration", _as_arrays(given))]
    if isinstance(given, list):
        if not given:
            raise InputError("calibration: the list is empty: give arrays, or a sample in each item")
        return "calibration", [_item(f"calibration[{i}]", each, places) for i, each in enumerate(given)]
    if not isinstance(given, (str, os.PathLike)):
        raise InputError(
            "calibration: expected a path, an array, arrays by input name, or what yields those with a "
            f"sample each, and not {type(given).__name__}"
        )
    path = Path(given)
    if kind_of(path) != "folder":
        return str(path), [(str(path), _read_file(path))]
    images.refuse(path)
    files = sorted(p for p in path.iterdir() if p.suffix in (".npy", ".npz"))
    if not files:
        raise InputError(f"{path}: the folder holds no .npy or .npz file")
    parts: list[tuple[str, Arrays]] = [(str(file), _read_file(file)) for file in files]
    named = {name for _, part in parts for name in part if name}
    if len(places) == 1 and len(named) < 2 and all(len(part) == 1 for _, part in parts):  # .npy has no names
        arrays = ((file, next(iter(part.values()))) for file, part in parts)
        return str(path), [(file, {"": with_batch(file, places[0], array)}) for file, array in arrays]
    _require_alike(parts, places)
    return str(path), parts


def _item(where: str, given: streams.Item, places: Sequence[Slot]) -> tuple[str, Arrays]:
    """One of a list, with its place: a sample that lacks the axis of samples gets it.

    Raises:
        InputError: it has no array for each input.
    """
    slots = {slot.name: slot for slot in places}
    if isinstance(given, np.ndarray):
        if len(places) != 1:
            raise InputError(
                f"calibration: a list of arrays, and the model has the inputs {_listed(slots)}: name them"
            )
        return where, {"": with_batch(where, places[0], given)}
    arrays = streams.ordered(where, given, list(slots)) if isinstance(given, tuple) else given
    return where, {n: with_batch(where, slots[n], a) if n in slots else a for n, a in arrays.items()}


def _require_alike(parts: Sequence[tuple[str, Arrays]], places: Sequence[Slot]) -> None:
    """Refuses a file of a folder whose arrays have other names than those of the model, or of most files.

    Raises:
        InputError: that is so of one; an array without a name has none.
    """
    inputs, unnamed = {slot.name for slot in places}, frozenset({""})
    count = Counter(frozenset(part) for _, part in parts if part.keys() != unnamed)
    usual = max(count, key=lambda names: (names == inputs, count[names]), default=unnamed)
    like = next(((file, part) for file, part in parts if part.keys() == usual), parts[0])
    for file, part in parts:
        if part.keys() not in (usual, unnamed):
            listed = _listed(like[1])
            raise InputError(f"{file}: its arrays are not those of {Path(like[0]).name}, with {listed}")


def _as_arrays(given: Arrays) -> Arrays:
    return {name: np.asarray(array) for name, array in given.items()}


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
        if "allow_pickle" in str(error):
            why = "its arrays hold objects, which are not read; texts are saved as np.array(texts, str)"
            raise InputError(f"{path}: {why}") from error
        raise InputError(f"{path}: no readable .npz or .npy file: {session.one_line(error)}") from error


def named(where: str, arrays: Arrays, inputs: Mapping[str, ir.Value]) -> Feeds:
    """The arrays by input, in its type.

    Args:
        where: they come from.
        arrays: by key.
        inputs: the model's, by name.

    Returns:
        An array for each input.

    Raises:
        InputError: an array is missing or extra, or of a type that the input does not take.
    """
    if len(arrays) == 1 and len(inputs) == 1:
        arrays = {next(iter(inputs)): next(iter(arrays.values()))}
    if "" in arrays and len(inputs) > 1:
        raise InputError(
            f"{where}: an array without a name, and the model has the inputs {_listed(inputs)}: give an .npz "
            "file, or a mapping, with an array by each name"
        )
    for name in inputs:
        if name not in arrays:
            raise InputError(f"{where}: no array for the model's input {name!r}; it holds {_listed(arrays)}")
    for name in arrays:
        if name not in inputs:
            raise InputError(f"{where}: the model has no input {name!r}; its inputs are {_listed(inputs)}")
    return {name: _cast(f"{where}: array for input {name!r}", v, arrays[name]) for name, v in inputs.items()}


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) if name else "an array without a name" for name in names) or "nothing"


def _cast(name: str, value: ir.Value, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in the input's type.

    Raises:
        InputError: it is of another kind.
    """
    if value.dtype is ir.DataType.STRING:
        if array.dtype.kind != "U" and not all(isinstance(text, str) for text in array.ravel()):
            raise InputError(f"{name} is {array.dtype}, the model takes texts")
        return array.astype(object)
    wanted = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32)
    if wanted.kind in "fV" and array.dtype.kind != "f":
        raise InputError(
            f"{name} is {array.dtype}, the model takes {wanted}: give inputs that are preprocessed already"
        )
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} is {array.dtype}, the model takes {wanted}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted, copy=False)
    if wanted.kind in "iub" and not np.array_equal(cast, array):
        ends = (
            "0 to 1" if wanted.kind == "b" else f"{np.iinfo(str(wanted)).min} to {np.iinfo(str(wanted)).max}"
        )
        raise InputError(
            f"{name} is {array.dtype} with a value of {array[array != cast].flat[0]:g}, the model takes "
            f"{wanted}: give whole numbers from {ends}, as before any preprocessing"
        )
    if wanted.kind == "f" and np.isinf(cast).any() and not np.isinf(array).any():
        raise InputError(f"{name} has values that {wanted} can't hold")
    return cast


def require_finite(name: str, value: ir.Value, samples: Sequence[npt.NDArray[Any]]) -> None:
    """Refuses numbers that are none, with the number of samples that have some.

    Args:
        name: of the arrays, in words.
        value: the model's input.
        samples: its arrays.

    Raises:
        InputError: some are not finite.
    """
    if value.dtype is not None and np.dtype(value.dtype.numpy()).kind not in "fV":  # whole numbers, or texts
        return
    bad = [number for number, array in enumerate(samples) if not np.isfinite(array).all()]
    if bad:
        raise InputError(
            f"{name} has values that are not finite, in {len(bad)} of {len(samples)} samples, first in "
            f"number {bad[0]} (from 0): leave such samples out, or repair what prepares them"
        )

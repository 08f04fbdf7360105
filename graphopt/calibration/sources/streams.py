"""What yields samples, read once: readers of onnxruntime, loaders, generators, lists and datasets."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphopt.calibration.images import Images
from graphopt.calibration.sources import datasets
from graphopt.calibration.sources.own import OwnInputs
from graphopt.errors import InputError

Item: TypeAlias = "npt.NDArray[Any] | dict[str, npt.NDArray[Any]] | tuple[npt.NDArray[Any], ...]"
"""One sample or several: an array, arrays by input name, or arrays in the order of the model's inputs."""

MOST_BYTES = 2 << 30
"""Bytes of arrays that are taken of what yields samples; the rest is left unread. Derived: 3,500 float32
images of 3 x 224 x 224, ten times the few hundred samples that suffice. It does not follow the machine's
memory, so that the same source gives the same inputs everywhere."""
WANTED = "expected an array, arrays by input name, or a tuple of arrays in the order of the inputs, and not"


def gathered(given: Any, names: Collection[str], most: int = MOST_BYTES) -> tuple[Any, str]:
    """What is given, where it yields samples as the list of them.

    Each is copied, as a loader may put the next one into the same memory.

    Args:
        given: what the caller gives, or a function that returns it.
        names: the model's inputs. A dataset's other columns are left aside.
        most: bytes of arrays to read at most.

    Returns:
        A path, an array, arrays by name, images, or a list of items; and that some were left unread, "" where
        none were.

    Raises:
        InputError: it yields nothing, or something that is no input, or fails.
    """
    if isinstance(given, OwnInputs):
        given = given()
    if isinstance(given, (str, os.PathLike)) and datasets.is_saved(Path(given)):
        given = datasets.load(Path(given))
    if hasattr(given, "__array__"):
        return array("calibration", given), ""
    if isinstance(given, Mapping):
        datasets.require_one("calibration", given)
        return given, ""
    plain = isinstance(given, (str, os.PathLike, Images))
    if plain or not (isinstance(given, Iterable) or hasattr(given, "get_next")):
        return given, ""
    if isinstance(given, Sequence) and not datasets.is_one(given):
        return [item(f"calibration[{i}]", each) for i, each in enumerate(given)], ""
    found, size = list[Item](), 0
    for number, each in enumerate(_yielded(given)):
        if datasets.is_one(given):
            each = datasets.columns(each, names)
        one = item(f"calibration[{number}]", each, copy=True)
        size += sum(a.nbytes for a in _arrays(one))
        if size > most and found:
            taken = f"{number} items, the first {most / 2**30:.3g} GiB of what {type(given).__name__} yields"
            return found, f"{taken}, were read, and no more"
        found.append(one)
    if not found:
        raise InputError(f"calibration: {type(given).__name__} yields nothing, or was read to its end before")
    return found, ""


def item(where: str, given: Any, *, copy: bool = False) -> Item:
    """One of several items as NumPy's arrays.

    Args:
        where: it comes from.
        given: what was yielded.
        copy: whether its memory may change.

    Returns:
        One array, arrays by name, or several in order.

    Raises:
        InputError: it is no array, and holds none.
    """
    if isinstance(given, Mapping):
        return {str(name): array(f"{where}[{name!r}]", each, copy=copy) for name, each in given.items()}
    if hasattr(given, "__array__"):
        return array(where, given, copy=copy)
    if isinstance(given, (list, tuple)):
        labelled = len(given) > 1 and not hasattr(given[-1], "__array__")  # with a number, or a name
        parts = given[:-1] if labelled else given
        if parts and all(hasattr(each, "__array__") for each in parts):
            return tuple(array(f"{where}[{i}]", each, copy=copy) for i, each in enumerate(parts))
    raise InputError(f"{where}: {WANTED} {_kind(given)}")


def array(where: str, given: Any, *, copy: bool = False) -> npt.NDArray[Any]:
    """What stands for an array, as NumPy's.

    Args:
        where: it comes from.
        given: an array, a tensor on whatever device, or numbers in lists.
        copy: whether its memory may change.

    Returns:
        The array.

    Raises:
        InputError: it is none.
    """
    try:
        if hasattr(given, "detach"):  # a tensor of PyTorch, which may need gradients, or lie on a GPU
            given = given.detach().cpu().numpy()
        found = np.array(given) if copy else np.asarray(given)
    except Exception as error:  # lists of several lengths, and whatever another library raises
        why = " ".join(str(error).split())
        raise InputError(f"{where}: {_kind(given)} is no array: {type(error).__name__}: {why}") from error
    return found


def ordered(where: str, arrays: Sequence[npt.NDArray[Any]], names: Sequence[str]) -> Mapping[str, Any]:
    """Arrays in the order of the model's inputs, by name; one more is a label, as loaders add it.

    Args:
        where: they come from.
        arrays: in that order.
        names: of the inputs.

    Returns:
        The arrays by input.

    Raises:
        InputError: there are fewer, or more.
    """
    if not len(names) <= len(arrays) <= len(names) + 1:
        listed = ", ".join(map(repr, names))
        raise InputError(
            f"{where}: {len(arrays)} arrays, and the model has the inputs {listed}: give one for each, in "
            "this order and at most labels after them, or arrays by name"
        )
    return dict(zip(names, arrays, strict=False))


def _yielded(given: Any) -> Iterator[Any]:
    """What it yields.

    Raises:
        InputError: it fails.
    """
    number = 0
    try:
        if hasattr(given, "get_next"):
            while (each := given.get_next()) is not None:
                yield each
                number += 1
        else:
            for each in given:
                yield each
                number += 1
    except InputError:
        raise
    except Exception as error:  # whatever a user's code does
        why = " ".join(str(error).split())
        raise InputError(
            f"calibration: {type(given).__name__} failed at item {number}: {type(error).__name__}: {why}"
        ) from error


def _arrays(one: Item) -> Iterable[npt.NDArray[Any]]:
    if isinstance(one, dict):
        return one.values()
    return one if isinstance(one, tuple) else (one,)


def _kind(given: Any) -> str:
    return type(given).__name__

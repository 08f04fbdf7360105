"""Datasets of Hugging Face: their rows as inputs, and folders that they were saved to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from graphopt.errors import InputError, lacking
from graphopt.files import kind_of

SPLITS = "dataset_dict.json"
"""What tells a folder of splits, each in a folder of its own."""
SAVED = ("dataset_info.json", "state.json")
"""What tells a folder that a dataset was saved to."""


def is_saved(path: Path) -> bool:
    """Whether a folder is one that a dataset, or its splits, were saved to."""
    return kind_of(path) == "folder" and (
        kind_of(path / SPLITS) == "file" or all(kind_of(path / name) == "file" for name in SAVED)
    )


def load(path: Path) -> Any:
    """The dataset in a folder.

    Raises:
        InputError: it can't be read, holds several splits, or the library is missing.
    """
    if kind_of(path / SPLITS) == "file":
        splits = ", ".join(repr(each.name) for each in sorted(path.iterdir()) if each.is_dir())
        raise InputError(f"{path}: holds the splits {splits} of a dataset: give the folder of one of them")
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise InputError(lacking(f"{path}: a folder of a dataset", "datasets")) from error
    try:
        return load_from_disk(str(path))
    except Exception as error:  # whatever its readers raise
        why = " ".join(str(error).split())
        raise InputError(f"{path}: no readable dataset: {type(error).__name__}: {why}") from error


def require_one(where: str, given: Mapping[str, Any]) -> None:
    """Refuses a mapping of splits.

    Raises:
        InputError: it is one.
    """
    splits = ", ".join(repr(name) for name, each in given.items() if is_one(each))
    if splits:
        raise InputError(f"{where}: a dataset with the splits {splits}: give one of them")


def is_one(given: Any) -> bool:
    """Whether it is a dataset of Hugging Face."""
    return hasattr(given, "column_names") and hasattr(given, "features")


def columns(row: Any, names: Collection[str]) -> dict[str, Any]:
    """A row's values for the model's inputs.

    Raises:
        InputError: there are none.
    """
    found = {name: row[name] for name in names if name in row}
    if not found:
        columns = ", ".join(map(repr, row))
        inputs = ", ".join(map(repr, names))
        raise InputError(
            f"calibration: the dataset has the columns {columns}, and the model the inputs {inputs}: "
            "rename_column gives a column an input's name"
        )
    return found

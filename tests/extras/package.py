"""The repository as its users get it: what the package is built from, away from what builds leave behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.places import ROOT

PARTS = ("pyproject.toml", "README.md", "LICENSE", "action.yml", ".pre-commit-hooks.yaml", "graphopt")


def copied(folder: Path) -> Path:
    """A copy of it in a folder, which is returned; the folder may be there."""
    folder.mkdir(exist_ok=True)
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder

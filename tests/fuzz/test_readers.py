"""Mutated files end in a result or in one line; the machine that says so sees what does not."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks import guided
from tests.fuzz import readers

FILES = 600
"""A second or two; `benchmarks.fuzz` reads them by ten thousands."""


def test_mutated_files(tmp_path: Path) -> None:
    with np.errstate(all="ignore"):  # mutated weights are no numbers
        found = {case: readers.check(case, tmp_path) for case in range(FILES)}
    assert not {case: each.detail for case, each in found.items() if each.fault}
    read = {name for each in found.values() for name in each.applied}
    assert {f"{name}, refused" for name in readers.READERS} - read <= {
        "times, refused"
    }  # a cache is no input


@pytest.mark.parametrize("name", sorted(set(readers.READERS) - {"images"}))
def test_files_are_valid_before_they_are_mutated(name: str, tmp_path: Path) -> None:
    for path, content in readers.READERS[name].files().items():
        (tmp_path / path).write_bytes(content)
    readers.READERS[name].read(tmp_path)


def test_what_coverage_guides_is_all_that_is_read() -> None:
    assert tuple(readers.READERS) == guided.NAMES


def test_mutations_follow_from_their_seed() -> None:
    content = bytes(range(256))
    assert readers.mutated(content, random.Random(1)) == readers.mutated(content, random.Random(1))
    assert readers.mutated(content, random.Random(1)) != content


@pytest.mark.parametrize(
    ("does", "seen"),
    [
        (lambda folder: 1 / 0, "ZeroDivisionError"),
        (lambda folder: np.ones(1 << 23), "MiB of memory"),
    ],
)
def test_errors_and_memory_are_seen(
    does: object, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "CEILING", 16 << 20)
    odd = dataclasses.replace(readers.READERS["recipe"], read=does)  # type: ignore[arg-type]
    monkeypatch.setattr(readers, "READERS", {"recipe": odd})
    found = readers.check(0, tmp_path)
    assert found.kind == "internal"
    assert seen in found.detail

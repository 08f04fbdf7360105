"""NumPy's products take one thread while a network is fitted, and the process gets its threads back."""

from __future__ import annotations

import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest

import graphopt
from graphopt.runtime.limits import threads
from tests.builders import conv_bn


@pytest.fixture
def set_to(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """What the process's threads were set to, threadpoolctl or not."""
    seen: list[int | str] = []

    def limits(number: int, user_api: str) -> Any:
        assert user_api == "blas"
        seen.append(number)
        return SimpleNamespace(restore_original_limits=lambda: seen.append("as before"))

    monkeypatch.setitem(sys.modules, "threadpoolctl", SimpleNamespace(threadpool_limits=limits))
    for name in threads.BLAS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return seen


def test_threads_are_given_back(set_to: list[int | str]) -> None:
    with threads.single():
        assert set_to == [1]
    assert set_to == [1, "as before"]
    with pytest.raises(ValueError, match="no"), threads.single():
        raise ValueError("no")
    assert set_to == [1, "as before"] * 2


def test_only_the_last_of_several_runs_gives_them_back(set_to: list[int | str]) -> None:
    """Each would remember what the first had set."""
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with threads.single():
            inside.set()
            leave.wait(10)

    run = threading.Thread(target=other)
    with threads.single():
        run.start()
        inside.wait(10)
    assert set_to == [1]
    leave.set()
    run.join()
    assert set_to == [1, "as before"]


@pytest.mark.parametrize("name", threads.BLAS_VARIABLES)
def test_who_says_how_many_gets_them(
    name: str, set_to: list[int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "2")
    with threads.single():
        assert set_to == []


def test_without_the_extra_they_stay_as_they_are(
    set_to: list[int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with threads.single():
        assert set_to == []


def test_a_run_takes_one_and_gives_them_back(set_to: list[int | str]) -> None:
    graphopt.optimize(conv_bn())
    assert set_to == [1, "as before"]

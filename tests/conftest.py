"""Settings of all tests, and what many of them read."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

# Before NumPy is imported: threads wait for each other when tests run side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["GRAPHOPT_THREADS"] = "1"

# Commands that tests start compile the package once, where a machine asks Python to keep nothing.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell has its background jobs ignore it, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What is run here is not what a job that runs the tests should show.
os.environ.pop("GITHUB_STEP_SUMMARY", None)

# As wide as the narrowest terminal that is promised, and no traceback asked for.
os.environ["COLUMNS"] = "80"
os.environ.pop("GRAPHOPT_TRACEBACK", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest module first, so that no process is left with it alone at the end."""
    items.sort(key=lambda item: "test_real_models" not in item.nodeid)


@pytest.fixture
def folded(tmp_path: Path) -> Path:
    """A model of which exact rewrites improve something."""
    from tests.builders import conv_bn, saved

    return saved(conv_bn(), tmp_path / "folded.onnx")


@pytest.fixture
def same(tmp_path: Path) -> Path:
    """A model that no exact rewrite improves."""
    from tests.builders import nothing_to_do, saved

    return saved(nothing_to_do(), tmp_path / "same.onnx")


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """A classifier with convolutions that a budget can cut."""
    from tests.builders import classifier, saved

    return saved(classifier(), tmp_path / "scores.onnx")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Calibration inputs of the classifier."""
    import numpy as np

    from tests.builders import samples

    np.save(tmp_path / "inputs.npy", samples(16))
    return tmp_path / "inputs.npy"


@pytest.fixture
def differing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole model differs, and no single change is guilty of it."""
    from graphopt.pipeline import exact_rounds
    from graphopt.verification import background
    from graphopt.verification.verdict import Verdict, Verification

    found = Verification((Verdict("model", "a|b", False, 1.0, 1.0, 0.0, 1e-4, 1),))
    monkeypatch.setattr(exact_rounds, "first_failing", lambda count, passes: None)
    monkeypatch.setattr(background, "verify", lambda *_: found)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes of input x at which sessions are run, as they are."""
    from graphopt.runtime import session

    sizes: list[tuple[int, ...]] = []
    run = session.run

    def noted(running: Any, feeds: Any, *others: Any) -> Any:
        sizes.append(feeds["x"].shape)
        return run(running, feeds, *others)

    monkeypatch.setattr(session, "run", noted)
    return sizes

"""Settings of all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Before NumPy is imported: its threads wait for each other when tests run side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell has its background jobs ignore it, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What is run here is not what a job that runs the tests should show.
os.environ.pop("GITHUB_STEP_SUMMARY", None)


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

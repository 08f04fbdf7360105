"""Settings of all tests."""

from __future__ import annotations

import os

# Before NumPy is imported: its threads wait for each other when tests run side by side.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What is run here is not what a job that runs the tests should show.
os.environ.pop("GITHUB_STEP_SUMMARY", None)

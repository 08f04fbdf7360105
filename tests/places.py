"""Where the tests find what they read."""

from __future__ import annotations

from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""
MODELS = ROOT / "models"
"""The sample models."""
SHARED = ROOT.parent / "shared"
"""Material beside the repository, which is not everywhere."""
DATA = SHARED / "data"
"""Trained models and real inputs in it."""
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
"""Networks without trained weights that onnx ships."""

"""Makes the picture of a report that the README shows: runs graphopt, opens the page, takes a screenshot.

From the root of the repository, after ``make test-extras``: ``.venv-extras/bin/python -m docs.screenshot``
"""

from __future__ import annotations

import base64
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.extras.browser import chromium, show

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
PICTURE = ROOT / "docs" / "images" / "report.png"
SIZE = 1100, 1340
"""Pixels of the picture; the page goes on below."""


def main() -> None:
    """Writes the picture."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        options = (
            *("-o", Path(folder) / "smaller.onnx", "--calibration", MODELS / "digits-calibration.npz"),
            *("--budget", "macs=0.5", "--html", page),
        )
        model = MODELS / "inception-digits.onnx"
        subprocess.run([sys.executable, "-m", "graphopt", "optimize", model, *options], check=True)
        picture(page, PICTURE)
    print(f"wrote {PICTURE.relative_to(ROOT)}, {PICTURE.stat().st_size} bytes")


def picture(page: Path, out: Path) -> None:
    """Takes a picture of the top of a page."""
    width, height = SIZE
    with chromium() as driver:
        show(driver, page, width=width)
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        taken = driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip}
        )
    out.parent.mkdir(exist_ok=True)
    out.write_bytes(base64.b64decode(taken["data"]))


if __name__ == "__main__":
    main()

"""Whether two checkouts rewrite the same models to the same bytes.

    python -m benchmarks.same_bytes OTHER_CHECKOUT [MODEL ...] [-- OPTION ...]

Each model is optimised by both, exactly or with the options given, and the digests of what they wrote
(external data too) are compared, as are the documents of ``scan --json``. Without models it takes those in
``models/`` and, where they are, in ``../shared/data/models``. Exit code 1 says that something differs.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def graphopt(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the command as it stands in a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "graphopt", *arguments]
    return subprocess.run(command, env=environment, cwd=checkout, capture_output=True, check=False)


def outcome(checkout: Path, model: Path, options: list[str]) -> tuple[str, ...]:
    """Exit code and digests of what `optimize` writes, and the digest of what `scan` finds."""
    with tempfile.TemporaryDirectory() as folder:
        ran = graphopt(checkout, "optimize", str(model), "-o", str(Path(folder, "out.onnx")), *options)
        written = sorted(Path(folder).iterdir())
        digests = [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in written]
    scanned = graphopt(checkout, "scan", "--json", str(model))
    return (f"exit {ran.returncode}", *digests, f"scan {hashlib.sha256(scanned.stdout).hexdigest()}")


def main(arguments: list[str]) -> int:
    """Compares, and prints a line a model."""
    given, _, options = (" ".join(arguments)).partition(" -- ")
    other, *models = given.split()
    found = [Path(name).resolve() for name in models] or [
        path
        for folder in (HERE / "models", HERE.parent / "shared" / "data" / "models")
        for path in sorted(folder.glob("*.onnx"))
    ]
    differ = 0
    for model in found:
        ours = outcome(HERE, model, options.split())
        theirs = outcome(Path(other).resolve(), model, options.split())
        differ += ours != theirs
        print(f"{model.name}: {'same' if ours == theirs else f'{theirs} became {ours}'}", flush=True)
    print(f"{len(found) - differ} of {len(found)} models the same")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Without Olive its pass says which extra brings it."""

from __future__ import annotations

import subprocess
import sys

WITHOUT = "import sys; sys.modules['olive'] = None; import graphopt.integrations.olive_pass"


def test_the_extra_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=60)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("graphopt.errors.InputError: the Olive pass needs graphopt[olive]: ")
    assert "pip install 'olive-ai>=" in last

"""Runs what a Markdown page shows: its files are written, its commands run, and what they print is compared.

A page is read from top to bottom in one folder, which holds the sample models as ``models/``:

- a fenced block behind a line such as "`workflow.json`:" is a file;
- a block of the language ``console`` holds commands behind ``$`` and, below each, what it prints. A command
  ends with 0, unless ``$ echo $?`` comes next. Under ``<!-- figures vary -->`` figures are not compared, and
  under ``<!-- details vary -->``, for fitted networks, only the first and last lines that it prints.

After a change that pages show, ``python -m tests.extras.console docs/*.md`` writes the new outputs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.places import ROOT

BLOCK = re.compile(
    r"(?:^`(?P<file>[\w./-]+)`:\n\n)?(?P<varies><!-- (?:figures|details) vary -->\n)?"
    r"^```(?P<language>\w+)\n(?P<body>.*?)^```$",
    re.M | re.S,
)
FIGURE = re.compile(r"-?\d[\d.,]*(e[+-]\d+)?( [kMG]\b)?")


def replay(text: str, folder: Path) -> str:
    """The page with what its commands print now.

    Raises:
        AssertionError: a command ended as the page doesn't say.
    """
    (folder / "models").mkdir(exist_ok=True)
    for file in (ROOT / "models").iterdir():
        if file.suffix in (".onnx", ".npz", ".py"):
            (folder / "models" / file.name).symlink_to(file)

    def current(block: re.Match[str]) -> str:
        if block["file"]:
            (folder / block["file"]).write_text(block["body"], encoding="utf-8")
        if block["language"] != "console":
            return block[0]
        shown = "\n\n".join(_session(block["body"], folder))
        return block[0].replace(block["body"], f"{shown}\n")

    return BLOCK.sub(current, text)


def yaml_blocks(page: Path) -> list[Any]:
    """What the YAML on a page says."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [yaml.safe_load(block["body"]) for block in found if block["language"] == "yaml"]


def _session(body: str, folder: Path) -> Iterator[str]:
    """Each command with what it prints."""
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)$", body, re.M)
    code = 0
    for number, command in enumerate(commands):
        done = _run(command, code, folder)
        code = done.returncode
        told = number + 1 < len(commands) and commands[number + 1] == "echo $?"
        assert code == 0 or told, f"$ {command}\nended with {code}:\n{done.stdout}"
        printed = "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())
        yield f"$ {command}\n{printed}".rstrip("\n")


def _run(command: str, code: int, folder: Path) -> subprocess.CompletedProcess[str]:
    beside = str(Path(sys.executable).parent)
    environment = {
        **os.environ,
        "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
        "NO_COLOR": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OLIVE_DISABLE_TELEMETRY": "1",
    }
    return subprocess.run(
        ["bash", "-c", f"(exit {code}); {command}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
    )


def comparable(text: str) -> str:
    """The page without what varies from one machine to the next, and without the spaces that align it."""

    def masked(block: re.Match[str]) -> str:
        if not block["varies"]:
            return block[0]
        sessions = block["body"].split("\n\n$ ")
        if "details" in block["varies"]:
            sessions = ["\n".join(lines[:2] + lines[-1:]) for lines in map(str.splitlines, sessions)]
        return " ".join(FIGURE.sub("#", "\n".join(sessions)).split())

    return BLOCK.sub(masked, text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name)
        before = page.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as scratch:
            after = replay(before, Path(scratch))
        if comparable(after) != comparable(before):
            page.write_text(after, encoding="utf-8")

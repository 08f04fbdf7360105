"""What is written, and where: streams that lead nowhere, files that appear together, and what is kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphopt import files
from graphopt.errors import InputError
from tests.builders import conv_bn, saved
from tests.command import cli

FULL = "graphopt: standard output: can't be written: No space left on device\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model that exact rewrites change, and nothing besides."""
    monkeypatch.chdir(tmp_path)
    saved(conv_bn(), tmp_path / "m.onnx")
    return tmp_path


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a line in which ``graphopt`` stands for the command."""
    command = f'graphopt() {{ {sys.executable} -m graphopt "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


OPTIMIZE = "graphopt optimize m.onnx -o out.onnx --report r.json"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams(home: Path, closed: str) -> None:
    done = shell(f"{OPTIMIZE} {closed}")
    assert (done.returncode, done.stderr) == (0, "")
    assert names(home) == {"m.onnx", "out.onnx", "r.json"}
    assert cli("verify", "m.onnx", "out.onnx").code == 0


@pytest.mark.parametrize("command", ["--json", "", "--require 'macs<=0.5'"])
def test_a_reader_that_leaves_early_changes_nothing(home: Path, command: str) -> None:
    done = shell(f"{OPTIMIZE} {command} | true")
    missed = "macs" in command
    assert done.returncode == (3 if missed else 0)
    assert done.stderr.count("\n") == missed
    assert names(home) == {"m.onnx", "r.json"} | (set() if missed else {"out.onnx"})


@pytest.mark.parametrize("line", ["graphopt --help", "graphopt rewrites", "graphopt scan m.onnx"])
def test_the_first_line_is_enough(home: Path, line: str) -> None:
    done = shell(f"{line} | head -n 1")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("option", ["", "--json"])
def test_no_model_where_the_result_cant_be_told(home: Path, option: str) -> None:
    done = shell(f"{OPTIMIZE} {option} > /dev/full")
    assert (done.returncode, done.stderr) == (2, FULL)
    assert names(home) == {"m.onnx"}


def test_a_stream_that_knows_few_characters(home: Path) -> None:
    done = shell("graphopt scan m.onnx", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "8?8" in done.stdout


def test_no_warning_of_a_library_is_shown(home: Path) -> None:
    proto = conv_bn()
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.full((8, 8, 3, 3), 3e38, "f"), "w"))
    saved(proto, home / "m.onnx")
    done = shell(f"{sys.executable} -W default -m graphopt optimize m.onnx -o out.onnx")
    assert (done.returncode, done.stderr) == (0, "")


def test_names_that_are_no_text(home: Path) -> None:
    (home / "m.onnx").rename(home / os.fsdecode(b"\xff.onnx"))
    made = "--report r.json --markdown r.md --junit r.xml"
    environment = {"PYTHONIOENCODING": "utf-8", "GITHUB_STEP_SUMMARY": "summary.md"}
    done = shell(f"graphopt optimize $'\\xff.onnx' -o $'o\\xff.onnx' {made}", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"r.json", "r.md", "r.xml", "summary.md"} < names(home)
    assert os.fsencode(json.loads(Path("r.json").read_text())["model"]["path"]) == b"\xff.onnx"


# --- reports and the model: all or none ---------------------------------------------------------------------


def refuse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file of this name can be put in its place."""
    replace = os.replace

    def refusing(origin: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(28, "No space left on device", str(origin), None, str(target))
        replace(origin, target)

    monkeypatch.setattr(os, "replace", refusing)


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("what", ["--report", "--markdown", "--junit"])
def test_no_model_where_a_report_cant_be_written(
    home: Path, what: str, older: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if older:
        Path("out.onnx").write_text("older")
    others = {"--report": "a", "--markdown": "b", "--junit": "c"}
    before = names(home)
    refuse(others[what], monkeypatch)
    done = cli("optimize", "m.onnx", "-o", "out.onnx", *(part for pair in others.items() for part in pair))
    done.one_line(f"graphopt: {others[what]}: can't be written: No space left on device\n")
    assert done.code == 2
    assert names(home) == before
    assert not older or Path("out.onnx").read_text() == "older"


def test_a_recipes_report_that_cant_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("recipe.toml").write_text('[[models]]\nmodel = "m.onnx"\nout = "out.onnx"\nreport = "r.json"\n')
    refuse("r.json", monkeypatch)
    done = cli("run", "recipe.toml", "--json")
    (outcome,) = json.loads(done.out)["models"]
    assert (done.code, outcome["exit_code"], outcome["out"], outcome["report"]) == (2, 2, None, None)
    assert outcome["error"] == "r.json: can't be written: No space left on device"
    assert names(home) == {"m.onnx", "recipe.toml"}


def test_files_that_are_written_together(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    with files.together():
        files.write_text(one, "1")
        files.copy_files([(one.parent / os.listdir(tmp_path)[0], tmp_path / "new" / "copy")])
        files.write_text(other, "2")
        assert not one.exists() and not other.exists()
    assert (one.read_text(), other.read_text()) == ("1\n", "2\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="no"), files.together():
        files.write_text(one, "3")
        files.copy_files([(other, tmp_path / "newer" / "copy")])
        raise InputError("no")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "newer").exists()


# --- signals ------------------------------------------------------------------------------------------------

SLOW = """
import signal, sys, time
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
import graphopt.__main__ as command
from graphopt.model import wire_format
def slow(*arguments):
    print("writing", flush=True)
    time.sleep(60)
wire_format.write = slow
command.run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_ends_a_process_leaves_nothing_behind(home: Path, name: str) -> None:
    temporary = home / "tmp"
    temporary.mkdir()
    before = names(home)
    call = [sys.executable, "-c", SLOW, "optimize", "m.onnx", "-o", "out.onnx"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None and running.stdout.readline() == "writing\n"
        time.sleep(0.1)
        running.send_signal(getattr(signal, name))
        _, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, "graphopt: interrupted; nothing was written\n")
    assert names(home) == before
    assert not list(temporary.glob("graphopt-*"))


# --- what is read is never replaced -------------------------------------------------------------------------

READ = {
    "weights": ("ext.onnx", ["--dry-run"], "weights.bin"),
    "weights through a link": ("ext.onnx", ["--dry-run"], "link.bin"),
    "an input in a folder": ("m.onnx", ["--dry-run", "--calibration", "inputs"], "inputs/a.npy"),
    "the own measure": ("m.onnx", ["--dry-run", "--metric", "pack.own:of"], "pack/own.py"),
    "images' preset": (
        "m.onnx",
        ["--dry-run", "--calibration", "inputs", "--preprocess", "p.toml"],
        "p.toml",
    ),
}


@pytest.mark.parametrize("option", ["--report", "--junit"])
@pytest.mark.parametrize("case", READ)
def test_a_report_never_replaces_what_is_read(home: Path, case: str, option: str) -> None:
    model, arguments, target = READ[case]
    data = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    saved(conv_bn(), home / "ext.onnx", **data)
    Path("link.bin").symlink_to("weights.bin")
    for folder, name in (("inputs", "a.npy"), ("pack", "own.py"), (".", "p.toml")):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / name).write_text("")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    done = cli("optimize", model, *arguments, option, target)
    assert done.code == 2 and f"{target}: is the input" in done.err and done.err.count("\n") == 1
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", [("run",), ("batch",)])
def test_a_report_never_replaces_its_recipe(home: Path, command: tuple[str, ...]) -> None:
    recipe = home / "recipe.toml"
    recipe.write_text('[[models]]\nmodel = "m.onnx"\nout = "out.onnx"\n')
    before = recipe.read_bytes()
    done = cli(*command, "recipe.toml", "--report", "recipe.toml")
    done.refused("graphopt: recipe.toml: is the input recipe.toml; name another output\n")
    assert recipe.read_bytes() == before and names(home) == {"m.onnx", "recipe.toml"}


def test_a_write_protected_output_is_not_replaced(tmp_path: Path) -> None:
    path, out = saved(conv_bn(), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    out.write_bytes(b"kept")
    out.chmod(0o444)
    cli("optimize", path, "-o", out).refused("out.onnx: is write-protected")
    assert out.read_bytes() == b"kept"

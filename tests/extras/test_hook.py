"""The pre-commit hook: real commits in a repository that uses it, installed by pre-commit from a clone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from console import yaml_blocks
from package import ROOT, copied

import graphopt
from models import classic
from tests.builders import conv_bn, nothing_to_do, saved

BIN = Path(sys.executable).parent
GUIDE = ROOT / "docs" / "pipelines.md"


def shown_configuration(page: Path) -> dict[str, Any]:
    """The configuration that a page shows."""
    (found,) = (block for block in yaml_blocks(page) if "repos" in block)
    return found


def ran(folder: Path, *command: object, code: int = 0, **environment: str) -> str:
    """What a command prints that ends with this code."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def repository(folder: Path) -> Path:
    """An empty git repository that takes commits whatever the machine's settings."""
    folder.mkdir()
    ran(folder, "git", "init", "-q", "-b", "main")
    for key, value in {"user.name": "T", "user.email": "t@example.org", "commit.gpgsign": "false"}.items():
        ran(folder, "git", "config", key, value)
    return folder


def published(folder: Path) -> tuple[Path, str]:
    """A repository with graphopt as it is here, and its commit."""
    copied(repository(folder))
    ran(folder, "git", "add", "-A")
    ran(folder, "git", "commit", "-q", "-m", "graphopt")
    return folder, ran(folder, "git", "rev-parse", "HEAD").strip()


def commit_that_is_shown() -> str:
    """What the guide shows of a commit that is refused."""
    page = GUIDE.read_text(encoding="utf-8").replace("\u00a0", " ")
    return page.split("<!-- commit -->\n```text\n", 1)[1].split("```\n<!-- end -->", 1)[0]


def configure(folder: Path, source: Path, revision: str, more: Mapping[str, object]) -> None:
    """Writes the configuration that the guide shows, with the real repository, and more keys for the hook."""
    config = shown_configuration(GUIDE)
    (repository,) = config["repos"]
    (hook,) = repository["hooks"]
    repository |= {"repo": str(source), "rev": revision}
    hook |= more
    (folder / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def test_the_manifest_is_valid() -> None:
    assert ran(ROOT, BIN / "pre-commit", "validate-manifest", ".pre-commit-hooks.yaml") == ""


@pytest.mark.parametrize("page", [ROOT / "README.md", GUIDE], ids=lambda page: page.name)
def test_the_configurations_that_are_shown(page: Path, tmp_path: Path) -> None:
    config = shown_configuration(page)
    (tmp_path / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    ran(tmp_path, "pre-commit", "validate-config", ".pre-commit-config.yaml")
    assert config["repos"][0]["hooks"] == [{"id": "graphopt-check"}]


def test_commits(tmp_path: Path) -> None:
    """One with a model that could be cheaper is refused; ``--fix`` rewrites it; then it is taken."""
    source, revision = published(tmp_path / "graphopt")
    mine = repository(tmp_path / "mine")
    home = {"PRE_COMMIT_HOME": str(tmp_path / "home")}
    configure(mine, source, revision, {})
    ran(mine, "pre-commit", "install", **home)
    ran(mine, "git", "add", ".pre-commit-config.yaml")
    shown = ran(mine, "git", "commit", "-m", "hooks", **home)
    assert "(no files to check)Skipped" in shown

    saved(classic.build(), mine / "classic.onnx")
    ran(mine, "git", "add", "-A")
    shown = ran(mine, "git", "commit", "-m", "The network", code=1, **home).replace("\u00a0", " ")
    assert f'$ git commit -m "The network"\n{shown.strip()}\n' == commit_that_is_shown()
    ran(mine, "git", "rm", "-q", "-f", "classic.onnx")

    (mine / "my models").mkdir()
    path = saved(conv_bn(), mine / "my models" / "a net.onnx")
    saved(nothing_to_do(), mine / "clean.onnx")
    (mine / "notes.txt").write_text("no model\n", encoding="utf-8")
    ran(mine, "git", "add", "-A")
    shown = ran(mine, "git", "commit", "-m", "models", code=1, **home).replace("\u00a0", " ")
    assert "- exit code: 3" in shown
    assert "my models/a net.onnx: 36.86 k MACs as before, 3 → 2 operators: 1 fold_affine" in shown
    assert "2 models: 1 could be made cheaper exactly (--fix does it)" in shown
    assert ran(mine, "git", "rev-list", "--count", "HEAD").strip() == "1"

    configure(mine, source, revision, {"args": ["--fix"]})
    ran(mine, "git", "add", "-A")
    shown = ran(mine, "git", "commit", "-m", "models", code=1, **home)
    assert "- files were modified by this hook" in shown
    assert ran(mine, "git", "diff", "--name-only").splitlines() == ["my models/a net.onnx"]
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Conv", "Relu"]
    assert graphopt.verify(conv_bn(), path)

    ran(mine, "git", "add", "-A")
    shown = ran(mine, "git", "commit", "-m", "models", **home)
    assert "Passed" in shown
    assert ran(mine, "git", "rev-list", "--count", "HEAD").strip() == "2"
    assert ran(mine, "git", "status", "--porcelain") == ""

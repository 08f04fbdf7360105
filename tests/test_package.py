"""What the package says of itself, as an installer and an index would read it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from email import message_from_string
from email.message import Message

import pytest
from places import ROOT

import graphopt

BUILD = (
    "import sys; from setuptools.build_meta import *; print(prepare_metadata_for_build_wheel(sys.argv[1]))"
)


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Message:
    """The metadata that setuptools makes of a copy; it fails where a field means nothing."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "graphopt", folder / "graphopt", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "made").mkdir()
    command = [sys.executable, "-W", "error", "-c", BUILD, folder / "made"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    made = folder / "made" / done.stdout.splitlines()[-1]
    assert (made / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    return message_from_string((made / "METADATA").read_text(encoding="utf-8"))


def test_the_metadata_is_whole(metadata: Message) -> None:
    assert metadata["Version"] == graphopt.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "graphopt developers"
    assert metadata["Summary"] and metadata["Keywords"]
    pythons = re.findall(r"Python :: 3\.(\d+)", "\n".join(metadata.get_all("Classifier", [])))
    assert f">=3.{pythons[0]}" == metadata["Requires-Python"]


def test_the_citation_is_of_this_version() -> None:
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^([\w-]+): (.+)$", cited, re.M))
    assert (fields["cff-version"], fields["type"]) == ("1.2.0", "software")
    assert (fields["version"], fields["license"]) == (graphopt.__version__, "Apache-2.0")
    assert {"message", "title", "authors"} <= set(re.findall(r"^([\w-]+):", cited, re.M))


def test_the_changelog_tells_of_this_version() -> None:
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[([^]]+)\](?: - (\d{4}-\d\d-\d\d))?$", log, re.M)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == graphopt.__version__ and versions[1][1]

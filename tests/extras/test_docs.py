"""The documentation builds without a warning, and what it shows is what happens."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from console import comparable, replay

from docs import build
from graphopt.cli.app import typer_app
from graphopt.rewrites import registry
from tests.places import ROOT

PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```console" in path.read_text("utf-8")
]
NAMES = [each.name for each in registry.BUILTIN]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as built. Any warning of Sphinx, such as a link that leads nowhere, is an error."""
    folder = tmp_path_factory.mktemp("docs")
    assert build.main(folder) == 0
    return folder / "html"


def words(page: Path) -> list[str]:
    """The text of a page's article."""
    text = page.read_text(encoding="utf-8")
    (article,) = re.findall(r'<article role="main"[^>]*>(.*?)</article>', text, re.S)
    article = re.sub(r'<a class="headerlink".*?</a>', "", article)
    return html.unescape(re.sub(r"<[^>]*>", "", article.replace("</", " </"))).split()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_what_a_page_shows_happens(path: Path, tmp_path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert comparable(replay(page, tmp_path)) == comparable(page)


@pytest.mark.parametrize(
    ("page", "same"),
    [
        ("```console\n$ echo one\none\n```\n", True),
        ("```console\n$ echo one\ntwo\n```\n", False),
        ("<!-- figures vary -->\n```console\n$ echo one 1.5e-07 ms\none 22 ms\n```\n", True),
        ("<!-- figures vary -->\n```console\n$ echo one 1.5\ntwo 1.5\n```\n", False),
        ("<!-- details vary -->\n```console\n$ seq 3 9\n3\n5\n9\n```\n", True),
        ("<!-- details vary -->\n```console\n$ echo a; echo b\na\nc\n```\n", False),
        ("`a.txt`:\n\n```text\nhello\n```\n\n```console\n$ cat a.txt\nhello\n```\n", True),
        ("```console\n$ false\n\n$ echo $?\n1\n```\n", True),
        ("```console\n$ false\n\n$ echo $?\n2\n```\n", False),
    ],
)
def test_pages_that_do_not_say_what_happens_are_found(page: str, same: bool, tmp_path: Path) -> None:
    assert (comparable(replay(page, tmp_path)) == comparable(page)) is same


def test_a_command_that_fails_unannounced(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ended with 3"):
        replay("```console\n$ exit 3\n```\n", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_rewrites_page_says_what_explain_says(name: str, built: Path) -> None:
    """Word by word, drawings included; only numbers of lists and bullets are made by the browser."""
    (rewrite,) = registry.select(registry.registry(), only=[name])
    explained = re.sub(r"(?m)^ *\d+\. ", "", registry.explain(rewrite)).replace("`", "")
    expected = re.sub(r"(?m)^References:", "References", explained).split()
    kind, promise = build.PROMISES[rewrite.exactness]
    said = f"{kind}: {promise.lower()}"
    shown = " ".join(words(built / "rewrites" / f"{name}.html"))
    assert said in shown
    found = shown.replace(said, "", 1).removeprefix(name)
    assert "".join(found.split()).startswith("".join(expected))
    for option in registry.option_types(rewrite):
        assert f"{name}.{option} " in found


def test_the_index_lists_every_rewrite(built: Path) -> None:
    shown = words(built / "rewrites" / "index.html")
    assert set(NAMES) <= set(shown)


def test_the_commands_page_lists_every_command(built: Path) -> None:
    shown = " ".join(words(built / "commands.html"))
    for command in typer_app.registered_commands:
        assert command.callback is not None
        assert f"Usage: graphopt {command.name or command.callback.__name__} " in shown


def test_pages_fetch_nothing(built: Path) -> None:
    for page in built.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link)\b[^>]*(?:src|href)="([^"]*)"', page.read_text(encoding="utf-8")
        )
        assert loaded
        assert not [address for address in loaded if address.startswith(("http", "//"))], page


def test_a_warning_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pages = build.pages
    monkeypatch.setattr(build, "pages", lambda: {**pages(), "limits.md": "# Limits\n\n[gone](nowhere.md)\n"})
    assert build.main(tmp_path / "docs") != 0
    assert "nowhere" in capfd.readouterr().err


def test_the_citation_is_a_citation() -> None:
    command = [
        Path(sys.executable).with_name("check-jsonschema"),
        "--builtin-schema",
        "vendor.citation-file-format",
    ]
    subprocess.run([*command, ROOT / "CITATION.cff"], check=True)

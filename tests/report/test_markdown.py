"""The Markdown summary, as a parser of Markdown and a job of GitHub Actions take it."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import onnx
import pytest
from markdown_it import MarkdownIt

import graphopt
from graphopt import api
from graphopt.errors import printable
from graphopt.report import markdown
from tests.builders import (
    batch_norm,
    bn_inputs,
    conv_bn,
    model,
    node,
    saved,
    weight,
)
from tests.command import cli

HOSTILE = [
    "a|b | --- | c",
    "`tick` ``two``",
    "`",
    "back\\slash \\| \\",
    "new\nline\r\n| x | y |\n\n# heading",
    "<script>alert(1)</script></details><!--",
    "[text](http://example.com) ![x](y) <http://example.com> www.example.com http://example.com",
    "*bold* __bold__ _it_ ._. ~~gone~~ $x$",
    "@someone #1 &lt; &amp;",
    "nul\x00 escape\x1b[31m right\u202eleft",
    "x" * 5000,
]
SUMMARY = "GITHUB_STEP_SUMMARY"


class Page(HTMLParser):
    """The tables of a rendered summary as text, and the tags that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[str] = []
        self.text = ""
        self._cell = False
        self.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell:
            self.tables[-1][-1][-1] += data

    def table(self, *columns: str) -> list[dict[str, str]]:
        """The rows below a header."""
        (found,) = [rows for rows in self.tables if tuple(rows[0]) == columns]
        assert all(len(row) == len(columns) for row in found), found
        return [dict(zip(columns, row, strict=True)) for row in found[1:]]


FIGURES = ("", "before", "after", "ratio")
APPLIED = ("rewrite", "layer", "form", "MACs", "to")
FITTED = (*APPLIED, "predicted", "error")
LEFT = ("", "rewrite", "sites", "reason, the most frequent")


def blocks(names: list[str]) -> onnx.ModelProto:
    """Conv → BatchNormalization, once a name."""
    nodes, weights = [], {}
    for number, name in enumerate(names):
        weights |= {f"w{number}": weight(8, 8, 3, 3, seed=number), **batch_norm(f"bn{number}", 8)}
        given = "x" if number == 0 else f"n{number - 1}"
        made = "y" if number == len(names) - 1 else f"n{number}"
        nodes.append(node("Conv", f"{given} w{number}", f"c{number}", name, pads=[1, 1, 1, 1]))
        nodes.append(node("BatchNormalization", bn_inputs(f"c{number}", f"bn{number}"), made, f"bn{number}"))
    return model(nodes, weights)


# --- what it says -------------------------------------------------------------------------------------------


def page_of(path: Path, *options: object, code: int = 0) -> Page:
    """The page that the command writes of a model."""
    page = path.with_name("r.md")
    done = cli("optimize", path, "-o", path.with_name("out.onnx"), "--markdown", page, *options)
    assert done.code == code, done.err
    return Page(page.read_text())


def test_the_figures_are_those_of_the_report(scores: Path, inputs: Path, tmp_path: Path) -> None:
    budget = ("--budget", "macs=0.6", "--calibration", inputs, "--require", "agreement>=0.1")
    page = page_of(scores, *budget, "--report", tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    rows = {row[""]: row for row in page.table(*FIGURES)}
    before, after = document["before"], document["after"]
    assert rows["MACs"]["ratio"] == f"{after['macs'] / before['macs']:.3f}"
    assert rows["parameters"]["ratio"] == f"{after['params'] / before['params']:.3f}"
    assert rows["operators"]["before"] == str(before["nodes"])
    assert f" · MACs −{100 * (1 - after['macs'] / before['macs']):.3g} % · agrees on " in page.text
    assert rows["latency, 1 thread"]["before"] == f"{document['latency']['reference_ms']:.3f} ms"
    quality = document["quality"]
    assert rows["agreement on 4 held-out inputs"]["after"].startswith(f"{quality['agreement']:.2%} (95 %: ")
    assert rows["SQNR on 4 held-out inputs"]["after"].startswith(f"{quality['sqnr']:.1f} dB (95 %: ")
    judged = [tuple(row.values()) for row in page.tables[1][1:] for row in [dict(enumerate(row))]]
    assert [(kind, asked, outcome) for kind, asked, _, outcome in judged] == [
        ("budget", "macs<=0.6", "passed"),
        ("gate", "agreement>=0.1", "passed"),
    ]
    applied = page.table(*FITTED)
    assert len(applied) == len(document["applied"])
    fitted = [item for item in document["applied"] if item["exactness"] == "approximate"]
    assert fitted and applied[0]["layer"] in [item["nodes"][0] for item in fitted]
    number = len(document["verification"]["checks"])
    assert f"Verified, of the exact rewrites: {number} comparisons" in page.text
    assert f"Measured, not verified: {len(fitted)} approximate rewrite" in page.text
    left = page.table(*LEFT)
    assert sum(int(row["sites"]) for row in left if row[""] == "declined") == len(document["declined"])
    assert sum(int(row["sites"]) for row in left if row[""] == "rejected") == len(document["rejected"])
    assert page.tags.count("details") == page.tags.count("summary") == 1
    assert "No model was written" not in page.text
    assert document["model"]["sha256"] in page.text and "scores.onnx" in page.text


def test_a_failed_gate(folded: Path) -> None:
    page = page_of(folded, "--require", "macs<=0.5", "--require", "params<=1", code=3)
    rows = [row for table in page.tables for row in table if row[0] == "gate"]
    assert rows == [["gate", "macs<=0.5", "1.0000", "failed"], ["gate", "params<=1", rows[1][2], "passed"]]
    assert "**failed**" in folded.with_name("r.md").read_text()
    assert "No model was written: the result fails what is required: macs<=0.5 (1.0000)" in page.text


@pytest.mark.usefixtures("differing")
def test_a_failed_verification(folded: Path) -> None:
    page = page_of(folded, "--require", "macs<=1", code=1)
    assert "Verification failed: 1 of " in page.text
    assert ["model", "a|b", "relative difference 1.0e+00, allowed 1.0e-04"] in page.tables[2]
    assert page.tables[1][1] == ["gate", "macs<=1", "not measured", "failed"]


def test_nothing_to_do(same: Path) -> None:
    page = page_of(same, "--dry-run")
    assert "nothing to do: the model is as it was" in page.text
    assert {row["ratio"] for row in page.table(*FIGURES)} == {"1.000"}


def test_most_are_listed_and_the_rest_counted() -> None:
    number = markdown.MOST_APPLIED + 5
    result = graphopt.optimize(blocks([f"conv{n}" for n in range(number)]), only=["fold_affine"])
    page = Page(markdown.report(result.report))
    assert f"{number} rewrites applied" in page.text
    assert len(page.table(*APPLIED)) == markdown.MOST_APPLIED
    assert "and 5 more: 5 fold_affine; the JSON report lists all" in page.text


# --- what the model holds ends up as text -------------------------------------------------------------------


def shown(text: str) -> str:
    """What of a name remains: on one line, and nothing that does not show."""
    return printable(" ".join(text.split()))


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_a_name_is_text(name: str, tmp_path: Path) -> None:
    """As a node's name it stands among what was applied, and in the reasons of what was not."""
    proto = blocks(["first", name])
    proto.graph.node[2].name = name
    page = page_of(saved(proto, tmp_path / "m.onnx"), "--dry-run")
    cells = [row["layer"].removesuffix(" and 1 more") for row in page.table(*APPLIED)]
    expected = shown(name)
    if len(expected) > markdown.NAME:
        assert len(cells[1]) == markdown.NAME
        head, tail = cells[1].split("…")
        assert expected.startswith(head) and expected.endswith(tail)
    else:
        assert cells == ["first", expected]
    plain = {"h2", "h3", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li"}
    assert set(page.tags) <= plain | {"details", "summary", "sub", "strong"}
    assert (tmp_path / "r.md").stat().st_size < 20_000


@pytest.mark.parametrize("text", HOSTILE, ids=lambda name: ascii(name)[:20])
def test_prose_and_code_are_text_in_a_cell_and_outside(text: str) -> None:
    for write in (markdown.prose, markdown.code):
        written = write(text)
        assert "\n" not in written and "@" not in re.sub("`.*?`", "", written)
        page = Page(f"{written}\n\n| a | b |\n| --- | --- |\n| {written} | end |\n")
        kept = shown(text)
        most = markdown.PROSE if write is markdown.prose else markdown.NAME
        ((_, (cell, end)),) = page.tables
        assert end == "end" and set(page.tags) <= {"p", "table", "thead", "tbody", "tr", "th", "td", "code"}
        assert write is markdown.code or not re.search("[@#](?!\u2060)", cell)
        joined = cell.replace("\u2060", "")
        assert joined == kept if len(kept) <= most else len(joined) == most


def test_the_files_name_is_text(tmp_path: Path) -> None:
    result = graphopt.optimize(saved(conv_bn(), tmp_path / "a`|<b>\udc80.onnx"))
    assert "graphopt: a`|<b>\\udc80.onnx" in Page(markdown.report(result.report)).text


# --- where it goes ------------------------------------------------------------------------------------------


def test_the_summary_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, summary, file = saved(conv_bn(), tmp_path / "m.onnx"), tmp_path / "summary", tmp_path / "r.md"
    monkeypatch.setenv(SUMMARY, str(summary))
    assert cli("optimize", path, "--dry-run").code == 0
    first = summary.read_text()
    assert first.startswith("## graphopt: `m.onnx`\n")
    assert cli("optimize", path, "--dry-run", "--markdown", file, "--require", "macs<=0.5").code == 3
    assert summary.read_text() == f"{first}\n{file.read_text()}"
    assert [tag for tag in Page(summary.read_text()).tags if tag == "h2"] == ["h2", "h2"]


def test_what_others_wrote_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, summary = saved(conv_bn(), tmp_path / "m.onnx"), tmp_path / "summary"
    summary.write_text("others, without an end of line")
    monkeypatch.setenv(SUMMARY, str(summary))
    assert cli("optimize", path, "--dry-run", "--markdown", summary).code == 0  # the same file: once
    text = summary.read_text()
    assert text.startswith("others, without an end of line\n## graphopt") and text.count("## graphopt") == 1


def test_no_summary_without_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(conv_bn(), tmp_path / "m.onnx")
    monkeypatch.setenv(SUMMARY, "")
    monkeypatch.chdir(tmp_path)
    assert cli("optimize", path, "--dry-run").code == 0
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_summary_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = saved(conv_bn(), tmp_path / "m.onnx"), tmp_path / "out.onnx"
    monkeypatch.setenv(SUMMARY, str(tmp_path / "absent" / "summary"))
    done = cli("optimize", path, "-o", out, "--json")
    assert done.code == 0 and out.exists() and json.loads(done.out)["exit_code"] == 0
    done.one_line("graphopt: $GITHUB_STEP_SUMMARY ", "No such file")


UNWRITABLE = {
    "no folder": ("absent/r", "the folder absent does not exist"),
    "a folder": (".", "is a folder"),
    "the model": ("m.onnx", "is the input"),
    "the output": ("out.onnx", "out.onnx"),
    "the inputs": ("inputs.npy", "inputs.npy"),
    "the report": ("r.json", "r.json"),
}


@pytest.mark.parametrize("option", ["--markdown", "--junit"])
@pytest.mark.parametrize("case", UNWRITABLE)
def test_a_path_that_cannot_be_written(
    option: str, case: str, tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "optimize", lambda *_, **__: pytest.fail("it began to work"))
    saved(conv_bn(), tmp_path / "m.onnx")
    target, naming = UNWRITABLE[case]
    given = ("-o", "out.onnx", "--report", "r.json", "--calibration", inputs)
    cli("optimize", "m.onnx", *given, option, target).refused(naming)
    assert sorted(os.listdir(tmp_path)) == ["inputs.npy", "m.onnx"]


def test_both_need_files_of_their_own(folded: Path, tmp_path: Path) -> None:
    same = tmp_path / "same"
    cli("optimize", folded, "--dry-run", "--markdown", same, "--junit", same).refused()
    assert os.listdir(tmp_path) == ["folded.onnx"]

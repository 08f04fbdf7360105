"""What is shown of names out of files: every character that is not seen is escaped."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import onnx
import pytest

import graphopt
from graphopt.errors import printable
from graphopt.report import junit, markdown
from tests.builders import conv_bn, saved
from tests.command import cli

NAMES = ("a\x1b[2J\u202egnp\u200b.exe", "b\nverified: 1 comparison", "c\u2066\x9b31m\u00ad")


def hidden(text: str) -> set[str]:
    """Characters of a text that are not seen, line breaks apart."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {ascii(c) for c in text if unicodedata.category(c) in kinds and c != "\n"}


def hostile() -> onnx.ModelProto:
    proto = conv_bn()
    for node, name in zip(proto.graph.node, NAMES, strict=True):
        node.name = name
        node.doc_string = name
    proto.metadata_props.add(key="a\u202eb", value="c\x1b[31m")
    return proto


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größer 𝄞 a b", "größer 𝄞 a b"),
        ("a\x1b[31m", r"a\x1b[31m"),
        ("a\u202eb\u200b", r"a\u202eb\u200b"),
        ("a\nb\tc", r"a\nb\tc"),
        ("a\udc80", r"a\udc80"),
    ],
    ids=ascii,
)
def test_what_is_not_seen_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(f"{text}\n", keep="\n") == f"{shown}\n".replace(r"\n", "\n")


def test_no_face_of_the_report_holds_what_is_not_seen() -> None:
    report = graphopt.optimize(hostile(), keep=["nothing\x1b[31m"]).report
    assert not hidden(junit.report(report))
    assert not hidden(markdown.report(report))


@pytest.mark.parametrize("command", [["scan"], ["optimize", "--dry-run", "--keep", "no\x1b[31m"], ["check"]])
def test_no_command_prints_what_is_not_seen(command: list[str], tmp_path: Path) -> None:
    path = saved(hostile(), tmp_path / "m\u202e.onnx")
    done = cli(command[0], path, *command[1:])
    assert not hidden(done.out + done.err)
    assert "verified: 1 comparison" not in done.out.splitlines()


def test_no_error_holds_what_is_not_seen(tmp_path: Path) -> None:
    done = cli("scan", tmp_path / "no\x1b[31m\u202e.onnx")
    done.refused("no such file")
    assert not hidden(done.err)

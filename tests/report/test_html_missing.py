"""``--html`` where the libraries that make pages are not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import graphopt
from graphopt import api
from graphopt.report import html
from tests.builders import conv_bn, saved
from tests.command import cli


@pytest.mark.parametrize("library", ["jinja2", "vl_convert"])
def test_one_line_names_the_extra_before_any_work(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for other in {"jinja2", "vl_convert"} - {library}:
        monkeypatch.setitem(sys.modules, other, sys)  # there, whatever it is
    monkeypatch.setattr(api, "optimize", lambda *_, **__: pytest.fail("it began to work"))
    model = saved(conv_bn(), tmp_path / "m.onnx")
    done = cli("optimize", model, "-o", tmp_path / "o.onnx", "--html", tmp_path / "r.html")
    assert done.code == 2 and done.out == ""
    assert done.err.startswith("graphopt: --html needs graphopt[html]: pip install 'jinja2>=")
    assert "'vl-convert-python>=" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_library_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(graphopt.InputError, match=r"a page needs graphopt\[html\]"):
        html.report(graphopt.optimize(conv_bn()))

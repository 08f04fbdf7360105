"""The JUnit XML, as a parser of XML and the schema of Jenkins take it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import graphopt
from graphopt.report import junit
from tests.builders import classifier, conv_bn, saved
from tests.command import cli

COUNT = re.compile(r"\d+")
SECONDS = re.compile(r"\d+\.\d{3}")
TEXT = re.compile(r"\S(.*\S)?")
SUITE = {"name": TEXT, "tests": COUNT, "failures": COUNT, "errors": COUNT, "time": SECONDS}
FORM = {
    "testsuites": (SUITE, ["testsuite"]),
    "testsuite": ({**SUITE, "skipped": COUNT}, ["properties", "testcase"]),
    "properties": ({}, ["property"]),
    "property": ({"name": TEXT, "value": TEXT}, []),
    "testcase": ({"name": TEXT, "classname": TEXT, "time": SECONDS}, ["failure"]),
    "failure": ({"type": TEXT, "message": TEXT}, []),
}
"""Attributes of each element, and the elements in it, in their order; junit-10.xsd, with no freedom left."""


def parsed(text: str) -> ElementTree.Element:
    """The suite of a document that has the form."""
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites" and len(root) == 1
    for element in root.iter():
        attributes, inside = FORM[element.tag]
        assert set(element.attrib) == set(attributes), element.tag
        for name, form in attributes.items():
            assert form.fullmatch(element.attrib[name]), (name, element.attrib[name])
        places = [inside.index(child.tag) for child in element]
        assert places == sorted(places), element.tag
    suite = root[0]
    cases = suite.findall("testcase")
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases) > 0
    failures = [case for case in cases if case.find("failure") is not None]
    for counted in (root, suite):
        assert counted.get("tests") == str(len(cases)) and counted.get("failures") == str(len(failures))
    return suite


def group(suite: ElementTree.Element, name: str) -> dict[str, str | None]:
    """The cases of a group by name, each with the message of its failure."""
    found = {}
    for case in suite.findall("testcase"):
        if case.attrib["classname"].rpartition(".")[2] == name:
            failure = case.find("failure")
            found[case.attrib["name"]] = None if failure is None else failure.attrib["message"]
    return found


def suite_of(path: Path, *options: object, code: int = 0) -> ElementTree.Element:
    """The suite that the command writes of a model."""
    out = path.with_name("out.onnx")
    done = cli("optimize", path, "-o", out, "--junit", path.with_name("r.xml"), *options)
    assert done.code == code, done.err
    return parsed(path.with_name("r.xml").read_text("utf-8"))


def test_a_case_for_each_check_key_and_gate(tmp_path: Path, inputs: Path) -> None:
    path = saved(classifier(), tmp_path / "my.model.onnx")
    budget = ("--budget", "macs=0.6", "--calibration", inputs, "--require", "sqnr>=1")
    suite = suite_of(path, *budget, "--report", tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    assert suite.get("name") == "graphopt optimize my.model.onnx" and suite.get("failures") == "0"
    checks = group(suite, "verification")
    assert len(checks) == len(document["verification"]["checks"])
    assert {"model: scores", "model, optimised session: scores"} <= set(checks)
    assert group(suite, "budget") == {"macs<=0.6": None}
    assert group(suite, "gate") == {"sqnr>=1": None}
    assert suite.findall("testcase")[0].get("classname") == "graphopt.my_model.verification"
    seconds = document["seconds"]
    assert float(suite.attrib["time"]) == pytest.approx(sum(seconds.values()), abs=0.01)
    spent = sum(float(case.attrib["time"]) for case in suite.findall("testcase"))
    assert spent == pytest.approx(seconds["verify"], abs=0.001 * len(checks))
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties["before.macs"] == str(document["before"]["macs"])
    assert properties["after.macs"] == str(document["after"]["macs"])
    assert properties["quality.sqnr"] == str(document["quality"]["sqnr"])
    assert properties["quality.samples"] == "4"
    assert properties["latency.speedup"] == str(document["latency"]["speedup"])
    assert properties["model.sha256"] == document["model"]["sha256"]
    assert properties["graphopt"] == graphopt.__version__ and properties["changed"] == "true"
    assert not any(name and name.startswith("metric") for name in properties)


def test_what_fails_says_by_how_much(scores: Path, tmp_path: Path) -> None:
    asked = ("--budget", "params=0.001", "--require", "macs<=0.001", "--require", "params<=1")
    suite = suite_of(scores, *asked, "--report", tmp_path / "r.json", code=3)
    document = json.loads((tmp_path / "r.json").read_text())
    macs, params = (document["gates"][n]["measured"] for n in (0, 1))
    assert group(suite, "gate") == {
        "macs<=0.001": f"macs is {macs:.4f}; asked for: macs<=0.001",
        "params<=1": None,
    }
    assert group(suite, "budget") == {"params<=0.001": f"params is {params:.4f}; asked for: params<=0.001"}
    assert suite.get("failures") == "2"


@pytest.mark.usefixtures("differing")
def test_a_failed_verification(folded: Path) -> None:
    suite = suite_of(folded, "--require", "latency<=1", code=1)
    assert group(suite, "verification")["model: a|b"] == "relative difference 1.0e+00, allowed 1.0e-04"
    assert group(suite, "gate") == {"latency<=1": "latency is not measured; asked for: latency<=1"}


def test_there_is_always_a_case(same: Path) -> None:
    """Jenkins takes a file without any for an error."""
    assert group(suite_of(same, "--dry-run"), "run") == {"optimize": None}
    result = graphopt.optimize(same)
    assert group(parsed(junit.report(result.report, "no room")), "run") == {"optimize": "no room"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a<b>&\"c'", "a<b>&\"c'"),
        ("]]><!-- --><testcase/>", "]]><!-- --><testcase/>"),
        ("nul\x00 escape\x1b[31m", r"nul\x00 escape\x1b[31m"),
        ("no\ufffecharacter\uffff", r"no\ufffecharacter\uffff"),
        ("new\nline\r\n\ttab", "new line tab"),
        ("größer 𝄞", "größer 𝄞"),
    ],
    ids=ascii,
)
def test_a_name_is_text(name: str, shown: str, tmp_path: Path) -> None:
    proto = conv_bn()
    proto.graph.node[0].name = name
    suite = suite_of(saved(proto, tmp_path / "m.onnx"), "--dry-run")
    assert f"region {shown}: n" in group(suite, "verification")


def test_a_files_name_that_is_no_text(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path / "a.b\udc80.onnx")
    suite = parsed(junit.report(graphopt.optimize(path).report))
    assert suite.get("name") == r"graphopt optimize a.b\udc80.onnx"
    assert suite.findall("testcase")[0].get("classname") == r"graphopt.a_b\udc80.verification"


def test_the_same_run_gives_the_same_file_but_for_the_times() -> None:
    texts = [junit.report(graphopt.optimize(conv_bn()).report) for _ in range(2)]
    first, second = (re.sub(r'(time|value)="[\d.]+"', "", text) for text in texts)
    assert first == second

"""The report as JUnit XML, which Jenkins, GitLab and most other systems show as test results.

A test case a comparison of the verification, a key of the budget, and a gate. The form is that of Jenkins'
schema (``junit-10.xsd`` of its xUnit plugin): ``testsuites`` with one ``testsuite``, in it ``properties`` and
``testcase`` elements, in those a ``failure`` where one failed. It holds no time of day and no host, so that
the same run gives the same file, but for what was timed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from xml.etree import ElementTree

from graphopt._version import __version__
from graphopt.errors import printable
from graphopt.planning.gates import Judged
from graphopt.report import json as documents
from graphopt.report.outcomes import Outcome
from graphopt.report.results import Report
from graphopt.report.wording import model_name

FIGURES = (
    "graphopt",
    "model",
    "before",
    "after",
    "changed",
    "warnings",
    "quality",
    "latency",
    "metric",
    "seconds",
)
"""What of the JSON report stands among the properties, ``before.macs`` for a part of ``before``."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A test case: its group, its name, its seconds, and what went wrong ("" where it passed)."""

    group: str
    name: str
    seconds: float = 0.0
    failure: str = ""


def report(result: Report, problem: str = "") -> str:
    """The document of ``graphopt optimize --junit``.

    The seconds of a comparison are an equal part of what the step ``verify`` took; the other steps are among
    the properties, and all of them in the seconds of the suite.

    Args:
        result: what a run did.
        problem: why no model was written; "" where nothing went wrong.
    """
    cases = [*_verification(result), *_judged("budget", result.budget), *_judged("gate", result.gates)]
    told = any(case.failure for case in cases)
    if not cases or (problem and not told):  # no case at all would be an error to Jenkins
        cases.append(_Case("run", "optimize", failure=problem))
    document = documents.report(result, 0)
    figures = {key: document[key] for key in FIGURES}
    return _document([_suite(model_name(result.source), cases, sum(result.seconds.values()), figures)])


def batch(names: Sequence[str], outcomes: Sequence[Outcome]) -> str:
    """The document of ``graphopt run --junit`` and ``graphopt batch --junit``: a suite a model.

    Args:
        names: what each model is called.
        outcomes: how each ended; one without a report has one case, which failed.
    """
    suites = []
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome.junit:
            suite = ElementTree.fromstring(outcome.junit.encode())[0]
            suite.set("name", _text(f"graphopt optimize {name}"))
        else:
            case = _Case("run", "optimize", outcome.seconds, outcome.error)
            suite = _suite(name, [case], outcome.seconds, {"graphopt": __version__})
        suites.append(suite)
    return _document(suites)


def _suite(
    name: str, cases: Sequence[_Case], seconds: float, figures: Mapping[str, Any]
) -> ElementTree.Element:
    """The suite of a model.

    Args:
        name: the model's.
        cases: its cases.
        seconds: how long it took.
        figures: what stands among its properties.
    """
    attributes = {
        "name": _text(f"graphopt optimize {name}"),
        "tests": str(len(cases)),
        "failures": str(sum(bool(case.failure) for case in cases)),
        "errors": "0",
        "time": _seconds(seconds),
        "skipped": "0",
    }
    suite = ElementTree.Element("testsuite", attributes)
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _flat(figures):
        ElementTree.SubElement(properties, "property", {"name": _text(key), "value": value})
    seen: dict[tuple[str, str], int] = {}
    package = f"graphopt.{_text(PurePath(name).stem).replace('.', '_')}"  # what is before the last dot
    for case in cases:
        _add(suite, package, case, seen)
    return suite


def _document(suites: Sequence[ElementTree.Element]) -> str:
    """The suites with what they come to."""
    counts = {key: sum(int(suite.attrib[key]) for suite in suites) for key in ("tests", "failures", "errors")}
    totals = {
        "name": suites[0].attrib["name"] if len(suites) == 1 else f"graphopt: {len(suites)} models",
        **{key: str(count) for key, count in counts.items()},
        "time": _seconds(sum(float(suite.attrib["time"]) for suite in suites)),
    }
    root = ElementTree.Element("testsuites", totals)
    root.extend(suites)
    ElementTree.indent(root)
    text = printable(ElementTree.tostring(root, encoding="unicode"), keep="\n")  # XML can't hold all of it
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'


def _add(suite: ElementTree.Element, package: str, case: _Case, seen: dict[tuple[str, str], int]) -> None:
    """A test case; a name that was there before gets a number, since it is known by its name."""
    name = _text(case.name)
    number = seen[case.group, name] = seen.get((case.group, name), 0) + 1
    attributes = {
        "name": name if number == 1 else f"{name} ({number})",
        "classname": f"{package}.{case.group}",
        "time": _seconds(case.seconds),
    }
    element = ElementTree.SubElement(suite, "testcase", attributes)
    if case.failure:
        message = _text(case.failure)
        failure = ElementTree.SubElement(element, "failure", {"type": case.group, "message": message})
        failure.text = f"{name}: {message}"


def _verification(result: Report) -> Iterator[_Case]:
    share = result.seconds.get("verify", 0.0) / max(1, len(result.checks))
    for check in result.checks:
        yield _Case("verification", f"{check.scope}: {check.compared}", share, "" if check else check.why)


def _judged(group: str, items: tuple[Judged, ...]) -> Iterator[_Case]:
    for item in items:
        yield _Case(
            group,
            str(item.gate),
            failure="" if item else f"{item.gate.key} is {item.told}; asked for: {item.gate}",
        )


def _flat(figures: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, str]]:
    """The figures by their path; those without a value are left out."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{inside}{key}.")
        elif isinstance(value, bool):
            yield f"{inside}{key}", str(value).lower()
        elif isinstance(value, (list, tuple)):
            if value:
                yield f"{inside}{key}", _text(", ".join(map(str, value)))
        elif value is not None and not (isinstance(value, float) and not math.isfinite(value)):
            yield f"{inside}{key}", _text(str(value))


def _text(text: str) -> str:
    """On one line."""
    return " ".join(text.split())


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"

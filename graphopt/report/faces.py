"""The faces of a report that can be written to a file: a new one is a module beside this one, and a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphopt.report.results import Result


def _json(result: Result, problem: str, exit_code: int) -> str:
    from graphopt.report import json

    return json.dumps(json.report(result.report, exit_code))


def _html(result: Result, problem: str, exit_code: int) -> str:
    from graphopt.report import html

    return html.report(result, problem)


def _markdown(result: Result, problem: str, exit_code: int) -> str:
    from graphopt.report import markdown

    return markdown.report(result.report, problem)


def _junit(result: Result, problem: str, exit_code: int) -> str:
    from graphopt.report import junit

    return junit.report(result.report, problem)


FACES: Mapping[str, Callable[[Result, str, int], str]] = {
    "report": _json,
    "html": _html,
    "markdown": _markdown,
    "junit": _junit,
}
"""What makes each, by the option that asks for it: of what a run made, why no model is written ("" where one
is), and the exit code. `_html` raises an `InputError` without `graphopt[html]`."""

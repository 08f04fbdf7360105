"""Numbers that modules name say what they bound, and those that decide something where they come from."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import graphopt
from graphopt.verification.equivalence import OWN_DIFFERENCE_FACTOR

PACKAGE = Path(graphopt.__file__).parent
DECIDING = {
    *("analysis", "calibration", "compression", "model/validation", "numerics", "pipeline", "planning"),
    *("measures", "rewrites", "runtime", "verification"),
}
"""The rooms whose numbers decide what comes out; those of others bound what is shown, read or kept."""
SOURCE = re.compile(
    r"\b(measured by|derived)\b"  # by a benchmark, from what is known
    r"|\([A-Z][^()]* \d{4}[,)]"  # from a paper
    r"|\b(opset|operator set|IR version|definition)\b"  # by the standard, by definition
    r"|no result depends|results do not depend",  # memory and threads
    re.IGNORECASE,
)


def test_every_numeric_constant_has_a_docstring() -> None:
    assert not [place for place, _, docstring in _constants() if docstring is None]


def test_every_number_that_decides_says_where_it_comes_from() -> None:
    bare = [
        place
        for place, value, docstring in _constants()
        if place.startswith(tuple(f"{room}/" for room in DECIDING))
        and _plain(value)
        and not SOURCE.search(docstring or "")
    ]
    assert not bare


def test_two_roundings_of_a_kind_rarely_differ_by_more_than_the_factor() -> None:
    """The largest of ten normal numbers, √2 times as large, against the largest of ten others."""
    drawn = np.abs(np.random.default_rng(0).standard_normal((2, 20_000, 10))).max(axis=2)
    off = np.sqrt(2) * drawn[0] / drawn[1]
    assert np.mean(off > OWN_DIFFERENCE_FACTOR) < 0.01 < np.mean(off > OWN_DIFFERENCE_FACTOR - 1)


def _constants() -> Iterator[tuple[str, ast.expr, str | None]]:
    """Place, value and docstring of upper-case names for numbers, alone, in tuples or in tables."""
    for path in sorted(PACKAGE.rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value and _is_number(node, node.value):
                said = following.value if isinstance(following, ast.Expr) else None
                text = said.value if isinstance(said, ast.Constant) else None
                docstring = " ".join(text.split()) if isinstance(text, str) else None
                yield f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}", node.value, docstring


def _is_number(node: ast.Assign | ast.AnnAssign, value: ast.expr) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    parts = [part for part in ast.walk(value) if isinstance(part, ast.Constant)]
    numeric = any(isinstance(p.value, (int, float)) and not isinstance(p.value, bool) for p in parts)
    return numeric and all(name.isupper() for name in names)


def _plain(value: ast.expr) -> bool:
    """Whether it is numbers alone: tables by name and objects are what they describe."""
    return not any(isinstance(part, (ast.Dict, ast.Call, ast.Lambda)) for part in ast.walk(value))

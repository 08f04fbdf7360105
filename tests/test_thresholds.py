"""Every number that a module names says what it bounds."""

import ast
from pathlib import Path

import graphopt

ROOMS = ("calibration", "compression", "numerics", "pipeline", "planning", "runtime", "verification")


def test_every_numeric_constant_has_a_docstring() -> None:
    package = Path(graphopt.__file__).parent
    bare = []
    for path in (p for room in ROOMS for p in sorted((package / room).rglob("*.py"))):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.Assign) and _is_number(node):
                documented = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                bare += [] if documented else [f"{path.relative_to(package)}:{node.lineno}"]
    assert not bare


def _is_number(node: ast.Assign) -> bool:
    """Whether upper-case names are given numbers, alone or in tuples or a table."""
    names = [each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    parts = [part for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
    numeric = any(isinstance(p.value, (int, float)) and not isinstance(p.value, bool) for p in parts)
    return numeric and all(name.isupper() for name in names)

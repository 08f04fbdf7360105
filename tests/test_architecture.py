"""Which module may do what: read off the source, so that a breach fails before it is relied on."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphopt

ROOT = Path(graphopt.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py"))


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def imports(module: ast.Module) -> set[str]:
    """Everything that a module imports, wherever and for whatever, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "imports are absolute"
            found.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    return found


# ---------------------------------------------------------------- only edit.py changes a graph

MUTATORS = frozenset(
    {"insert_before", "insert_after", "replace_all_uses_with", "replace_input_with", "register_initializer"}
    | {"resize_inputs", "resize_outputs", "replace_nodes_and_values", "replace_all_uses_with"}
)
"""Methods and functions of onnx_ir that change a graph, whatever they are called on."""
LIST_METHODS = frozenset(
    {"append", "extend", "insert", "remove", "pop", "clear", "sort", "update", "add", "setdefault", "popitem"}
)
"""Methods that change a collection; on a part of a graph they change the graph."""
GRAPH_PARTS = frozenset(
    {"inputs", "outputs", "initializers", "opset_imports", "metadata_props", "attributes", "functions"}
)
"""Collections that belong to a graph, a node or a model of onnx_ir."""
GRAPH_FIELDS = frozenset({"const_value", "ir_version", "op_type", "domain", "overload", "shape", "type"})
"""Fields of a graph's values, nodes and model that can be assigned."""

ALLOWED = {
    "model/carried.py": "it puts what onnx_ir has no form for into a model that nobody else has yet",
    "model/edit.py": "it is the mutator",
    "model/inlining.py": "it puts bodies in the place of calls, in a clone of what was loaded",
    "model/serde.py": "it completes a model that nobody else has yet, and saving works on a clone of it",
    "runtime/session.py": "what a session parses is a clone whose weights are references",
}
"""Modules that may, and why."""


def mutations(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of what would change a graph of onnx_ir."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            called = node.func
            if called.attr in MUTATORS or (called.attr in LIST_METHODS and _graph_part(called.value)):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete)):
            targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node.target]
            for target in targets:
                if _changes_graph(target):
                    yield node.lineno, ast.unparse(node)


def _graph_part(node: ast.expr) -> bool:
    """Whether an expression is a collection of a graph, or a graph itself."""
    if isinstance(node, ast.Attribute):
        owner = node.value
        own = isinstance(owner, ast.Name) and owner.id in ("self", "cls")
        return (node.attr in GRAPH_PARTS and not own) or node.attr == "graph"
    return isinstance(node, ast.Name) and node.id in ("graph", "body")


def _changes_graph(target: ast.expr) -> bool:
    if isinstance(target, ast.Subscript):
        return _graph_part(target.value)
    own = (
        isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
    )
    return isinstance(target, ast.Attribute) and target.attr in GRAPH_FIELDS and not own


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_only_edit_changes_graphs(path: Path) -> None:
    if label(path) in ALLOWED:
        pytest.skip(f"may: {ALLOWED[label(path)]}")
    found = [f"{label(path)}:{line}: {what}" for line, what in mutations(tree(label(path)))]
    assert not found, (
        "only model/edit.py changes graphs. A rewrite returns a Replacement (graphopt.Builder makes one), "
        "which edit.apply puts into a clone; edit.freeze drops overridable inputs:\n" + "\n".join(found)
    )


@pytest.mark.parametrize("name", ALLOWED)
def test_every_exception_is_needed(name: str) -> None:
    assert list(mutations(tree(name))), f"{name} changes nothing any more: take it off the list"


@pytest.mark.parametrize(
    "line",
    [
        "graph.insert_before(node, other)",
        "value.replace_all_uses_with(other)",
        "ir.convenience.replace_all_uses_with(a, b)",
        "node.replace_input_with(0, value)",
        "model.graph.register_initializer(value)",
        "model.graph.remove(node, safe=True)",
        "graph.sort()",
        "graph.initializers.pop('w')",
        "graph.initializers['w'] = value",
        "del model.graph.initializers['w']",
        "model.graph.inputs.clear()",
        "clone.graph.outputs.append(value)",
        "value.const_value = tensor",
        "model.ir_version = 4",
        "node.attributes['pads'] = 1",
        "node.metadata_props.update({})",
    ],
)
def test_the_scan_sees_every_kind_of_change(line: str) -> None:
    assert list(mutations(ast.parse(line)))


@pytest.mark.parametrize(
    "line", ["self.inputs.append(x)", "names.append(x)", "shape = 1", "self.shape = 1", "feeds[name] = a"]
)
def test_the_scan_leaves_other_code_alone(line: str) -> None:
    assert not list(mutations(ast.parse(line)))


# ---------------------------------------------------------------- who may import what


PLANTED = {
    "model/edit.py": "graphopt.rewrites.registry",
    "numerics/kernels/algebra.py": "onnx_ir",
    "rewrites/folding/fold_pad.py": "graphopt.model.edit",
    "rewrites/merging/sums.py": "graphopt.rewrites.moving.pooling",
    "rewrites/base.py": "graphopt.rewrites.patterns.common",
    "runtime/latency.py": "graphopt.rewrites.base",
    "report/json.py": "graphopt.rewrites.folding.fold_pad",
    "pipeline/journal.py": "onnxruntime",
    "verification/equivalence.py": "graphopt.model.edit",
}
"""A module of a room, and what it must not import: a breach of each contract, the circles' by several."""


def contracts(folder: Path) -> tuple[int, str]:
    """How import-linter ends for the package in a folder, and what it says."""
    linted = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--config", "pyproject.toml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return linted.returncode, linted.stdout + linted.stderr


def test_forbidden_imports_break_every_contract(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / "graphopt", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT.parent / "pyproject.toml", tmp_path)
    for name, banned in PLANTED.items():
        path = tmp_path / "graphopt" / name
        path.write_text(f"{path.read_text(encoding='utf-8')}\nimport {banned}\n", encoding="utf-8")
    code, said = contracts(tmp_path)
    verdicts = re.findall(r"(KEPT|BROKEN)(?: \(.*\))?$", said, re.MULTILINE)
    assert code == 1 and verdicts and set(verdicts) == {"BROKEN"}, said


def test_a_module_without_a_room_breaks_the_contract(tmp_path: Path) -> None:
    shutil.copytree(ROOT, tmp_path / "graphopt", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT.parent / "pyproject.toml", tmp_path)
    assert contracts(tmp_path)[0] == 0
    (tmp_path / "graphopt" / "helpers.py").write_text('"""Has no room."""\n', encoding="utf-8")
    code, said = contracts(tmp_path)
    assert code == 1 and "helpers" in said


def rooms() -> list[Path]:
    """The folders of the package that hold modules."""
    return sorted({path.parent for path in MODULES})


def test_the_top_and_every_room_stay_small() -> None:
    """Someone who looks for the place of a change reads a dozen names, not eighty."""
    sizes = {room: len([p for p in MODULES if p.parent == room and p.stem != "__init__"]) for room in rooms()}
    assert sizes.pop(ROOT) + 1 <= 8
    assert {label(room): size for room, size in sizes.items() if size > 12} == {}


@pytest.mark.parametrize("room", [room for room in rooms() if room != ROOT], ids=label)
def test_a_room_says_in_one_sentence_what_it_is(room: Path) -> None:
    doc = ast.get_docstring(tree(label(room / "__init__.py"))) or ""
    assert doc.splitlines()[0].endswith("."), f"{label(room)} has no sentence"


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_onnxruntime_is_imported_where_it_is_used(path: Path) -> None:
    """It takes long to import, so that no module does so at its top."""
    top = [n for n in tree(label(path)).body if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = imports(ast.Module(body=list(top), type_ignores=[]))
    assert not any(name == "onnxruntime" or name.startswith("onnxruntime.") for name in names)


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_inner_modules_of_onnxruntime_are_reached_through_it(path: Path) -> None:
    """Two threads, of which one imports a package and the other a module inside it, block each other."""
    found = [n for n in ast.walk(tree(label(path))) if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = imports(ast.Module(body=list(found), type_ignores=[]))
    assert not any(name.startswith("onnxruntime.") for name in names)


PRINTERS = {
    "__main__.py": "the command's last resort for errors",
    "cli/app.py": "it turns the ways in which the command ends into exit codes",
    "cli/common.py": "the commands print documents through it",
    "cli/progress.py": "it shows progress, on standard error",
    "cli/streams.py": "it makes the streams safe to print to",
    "jobs/worker.py": "it keeps what is printed apart from its answer",
}


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_the_library_does_not_print(path: Path) -> None:
    if label(path) in PRINTERS:
        pytest.skip(PRINTERS[label(path)])
    for node in ast.walk(tree(label(path))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{label(path)}:{node.lineno}: return it, or report it, instead"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sys":
            assert node.attr not in ("stdout", "stderr"), f"{label(path)}:{node.lineno}: the CLI prints"


TERMINAL = ("cli/", "report/text/", "pipeline/options/table.py")
"""Where text is for a terminal, or stands for an option's place on the command line."""


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_only_the_command_line_speaks_of_flags(path: Path) -> None:
    """Reasons and notes are read in Python, too."""
    if label(path).startswith(TERMINAL):
        pytest.skip("it is of the command line")
    module = tree(label(path))
    told = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}  # docstrings
    texts = [n for n in ast.walk(module) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    found = [n.value for n in texts if id(n) not in told and re.search(r"(?<![\w(-])--[a-z]", n.value)]
    assert not found, 'options have quotes around their names, as "keep" has'


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    doc = ast.get_docstring(tree(label(path)))
    if label(path) != "_version.py":
        assert doc, f"{label(path)} has no docstring"
    assert not re.search(r"/(home|work|tmp)/", path.read_text(encoding="utf-8"))


def test_no_module_hides_a_function_of_the_package() -> None:
    """An imported module becomes an attribute of the package, in the place of what has its name."""
    modules = {path.stem for path in ROOT.iterdir()}
    assert not modules & set(graphopt.__all__)


# ---------------------------------------------------------------- what the documents and docstrings say

PAGE = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
WHERE = (ROOT.parent / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2]


def missing(text: str, *roots: Path) -> list[str]:
    """The paths and modules that a text names in backticks and that are not there."""
    named = re.findall(r"`([\w./-]+)`", text)
    paths = [name for name in named if "/" in name or name.endswith(".py")]
    paths += [name.replace(".", "/") for name in named if re.match(r"graphopt\.\w", name)]
    places = (*roots, ROOT.parent)
    return [
        path
        for path in paths
        if not any((at / f"{path}{end}").exists() for at in places for end in ("", ".py"))
    ]


def test_where_things_are_is_where_they_are() -> None:
    assert missing(PAGE, ROOT) == []
    assert missing(WHERE) == []
    assert missing("`model/no.py`, `graphopt.no`", ROOT) == ["model/no.py", "graphopt/no"]


def test_the_documents_name_every_room() -> None:
    for room in sorted({path.relative_to(ROOT).parts[0] for path in MODULES if path.parent != ROOT}):
        assert f"| `{room}/` |" in PAGE
        assert f"`graphopt/{room}/`" in WHERE


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def parameters(function: ast.FunctionDef) -> list[str]:
    """The names of a function's parameters, without self and cls."""
    given = function.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    found = [each.arg for each in every if each is not None]
    return found[1:] if found[:1] in (["self"], ["cls"]) else found


def raises(node: ast.AST) -> bool:
    """Whether a function raises by itself, not in a function inside of it."""
    inside = [each for each in ast.iter_child_nodes(node) if not isinstance(each, FUNCTIONS)]
    return any(isinstance(each, ast.Raise) or raises(each) for each in inside)


def public(body: list[ast.stmt], owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """The public functions of a module and of its public classes, each with its class."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public(node.body, node.name)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield owner, node


def hooks() -> list[tuple[str, str, list[str]]]:
    """Class, name and parameters of the methods of protocols and of classes that others derive from."""
    classes = [
        node for path in MODULES for node in ast.walk(tree(label(path))) if isinstance(node, ast.ClassDef)
    ]
    derived = (base for each in classes for base in each.bases)
    plain = (
        base.value if isinstance(base, ast.Subscript) else base for base in derived
    )  # of what is generic
    bases = {ast.unparse(base).rpartition(".")[2] for base in plain}
    return [
        (each.name, node.name, parameters(node))
        for each in classes
        if each.name in bases or "Protocol" in map(ast.unparse, each.bases)
        for node in each.body
        if isinstance(node, ast.FunctionDef)
    ]


HOOKS = hooks()


def told_elsewhere(name: str, owner: str, function: ast.FunctionDef) -> bool:
    """Whether its parameters are told once for all: by a protocol or base, a help, the table of rules."""
    hook = function.name, parameters(function)
    return (
        bool(owner and any(tuple(rest) == hook for theirs, *rest in HOOKS if theirs != owner))
        or (name.startswith("cli/commands/") and not owner)  # the command's help
        or (name.startswith("compression/autodiff/rules/") and parameters(function) == ["tape", "node", "g"])
    )


def untold(name: str, owner: str, function: ast.FunctionDef) -> list[str]:
    """The sections that a function's docstring lacks, and the parameters that it leaves out or makes up."""
    if len(parameters(function)) < 3 or told_elsewhere(name, owner, function):
        return []
    doc = ast.get_docstring(function) or ""
    gives = function.returns is not None and ast.unparse(function.returns) != "None"
    wanted = {"Args": True, "Returns": gives, "Raises": raises(function)}
    sections = dict(re.findall(r"^(\w+):\n((?: .*\n?)+)", doc, re.M))
    told = re.findall(r"^ {1,4}\**(\w+): ", sections.get("Args", ""), re.M)
    lacking = [section for section, due in wanted.items() if due and section not in sections]
    return lacking or sorted({*told} ^ {*parameters(function)})


@pytest.mark.parametrize("path", MODULES, ids=label)
def test_docstrings_tell_of_arguments_results_and_errors(path: Path) -> None:
    """Of public functions of three parameters and more."""
    found = {
        f"{label(path)}:{f.lineno}": untold(label(path), owner, f)
        for owner, f in public(tree(label(path)).body)
    }
    assert {where: lacking for where, lacking in found.items() if lacking} == {}


@pytest.mark.parametrize(
    ("code", "lacking"),
    [
        ("def f(a, b, c): 'Does.'", ["Args"]),
        ("def f(a, *b, c=1) -> int: 'Does.'", ["Args", "Returns"]),
        ("class C:\n def f(self, a, b) -> int: 'Does.'", []),
        ("def f(a, b, c) -> None:\n '''Does.\n\n Args:\n  a: x.\n  b: x.\n  d: x.\n '''", ["c", "d"]),
        ("def f(a, b, c) -> None:\n '''Does.\n\n Args:\n  a: x.\n '''\n if a: raise E", ["Raises"]),
        ("def f(a, b, c):\n 'Does.'\n def g(): raise E", ["Args"]),
    ],
)
def test_what_a_docstring_lacks_is_seen(code: str, lacking: list[str]) -> None:
    ((owner, function),) = public(ast.parse(code).body)
    assert untold("api.py", owner, function) == lacking

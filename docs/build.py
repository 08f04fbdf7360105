"""Builds the documentation: the guide, and reference pages made from the program itself.

A rewrite's page is made of what ``graphopt explain`` prints, and the page of commands of their help, so that
neither can say something else. Any warning is an error.

From the root of the repository: ``make docs``, or ``python -m docs.build [FOLDER]``.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import build_main
from typer.testing import CliRunner

from graphopt.cli.app import typer_app
from graphopt.report import glossary
from graphopt.rewrites import registry
from graphopt.rewrites.base import Rewrite
from graphopt.types import Exactness

DOCS = Path(__file__).resolve().parent
DEFAULT = DOCS.parent / "build" / "docs"
HEADING = re.compile(r"^(\w[\w ]*?):?$")
"""A line of its own, in front of an indented block."""
CODE = re.compile(r"(``.+?``|`.+?`)")
ESCAPED = re.compile(r"([\\*_\[\]<>|])")
PROMISES = {
    Exactness.EXACT: ("Exact", "Equal in real arithmetic; on by default."),
    Exactness.APPROXIMATE: ("Approximate", "Under a budget, and measured on held-out inputs."),
    Exactness.EXPANDING: ("Expanding", "Equal but dearer; only on request, and alone."),
}
"""The kinds of rewrites, as the reference calls them."""


def main(folder: Path = DEFAULT) -> int:
    """Builds the pages into ``folder/html``, and returns Sphinx's exit code."""
    source = folder / "source"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path, text in pages().items():
        (source / path).parent.mkdir(exist_ok=True)
        (source / path).write_text(text, encoding="utf-8")
    strict = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    return build_main([*strict, "-c", str(DOCS), "-b", "html", str(source), str(folder / "html")])


def pages() -> dict[str, str]:
    """The reference pages, by their place in the sources."""
    found = {f"rewrites/{each.name}.md": rewrite_page(each) for each in _rewrites()}
    made = {"rewrites/index.md": index_page(), "commands.md": commands_page(), "glossary.md": glossary_page()}
    return {**found, **made}


def _rewrites() -> list[Rewrite]:
    return [each() for each in registry.BUILTIN]


# ---------------------------------------------------------------- a page a rewrite


def rewrite_page(rewrite: Rewrite) -> str:
    """What ``graphopt explain`` prints, as Markdown, with the rewrite's options."""
    title, _, rest = registry.explain(rewrite).partition("\n")
    kind, promise = PROMISES[rewrite.exactness]
    lines = [f"# {rewrite.name}", "", f"**{escaped(title)}**", "", f"{kind}: {promise.lower()}", ""]
    for heading, block in sections(rest):
        lines += [f"## {heading}", "", *markdown(block, items=heading == "References"), ""]
    options = registry.option_types(rewrite)
    if options:
        lines += ["## Options", "", "| `--set` | type | default |", "|---|---|---|"]
    for name, (type_, default) in options.items():
        lines.append(f"| `{rewrite.name}.{name}` | {escaped(type_)} | {escaped(str(default))} |")
    return "\n".join(lines) + "\n"


def sections(text: str) -> list[tuple[str, list[str]]]:
    """The headings of an explanation, each with the lines under it, no longer indented."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        heading = HEADING.match(line)
        if heading:
            found.append((heading[1], []))
        elif found:
            found[-1][1].append(line.removeprefix("    "))
        elif line.strip():
            raise ValueError(f"{line!r} stands under no heading")
    return found


def markdown(block: list[str], *, items: bool = False) -> list[str]:
    """The lines of a section as Markdown.

    What is indented is a drawing, shown as it is; behind a number it goes on with that item.

    Args:
        block: the lines.
        items: whether every line is an item of its own.
    """
    lines: list[str] = []
    before = ""
    for line in block:
        indented = line.startswith("  ")
        if not line.strip():
            kind = ""
        elif re.match(r"\d+\. ", line) or (indented and before == "number"):
            kind = "number"
        else:
            kind = "drawing" if indented else "text"
        if kind != before:
            lines.append("")
        if kind == "drawing":
            lines.append(f"  {line}")
        elif kind == "number" and indented:
            lines.append(f"    {escaped(line.strip())}")
        else:
            lines.append(f"- {escaped(line)}" if items and kind else escaped(line))
        before = kind
    return lines


def escaped(text: str) -> str:
    """Text in which nothing but code is Markdown."""
    return "".join(part if part.startswith("`") else ESCAPED.sub(r"\\\1", part) for part in CODE.split(text))


def index_page() -> str:
    """All rewrites in tables, by what they promise."""
    lines = ["# Rewrites", "", "What stands here is what `graphopt explain NAME` prints.", ""]
    for exactness, (kind, promise) in PROMISES.items():
        listed = [each for each in _rewrites() if each.exactness is exactness]
        lines += [f"## {kind}", "", promise, "", "| rewrite | what it does |", "|---|---|"]
        lines += [f"| [{r.name}]({r.name}.md) | {escaped(registry.summary(r))} |" for r in listed]
        lines += ["", "```{toctree}", ":hidden:", "", *(r.name for r in listed), "```", ""]
    return "\n".join(lines)


# ---------------------------------------------------------------- the words of reports


def glossary_page() -> str:
    """The words that `graphopt explain` knows, each with its meaning."""
    lines = ["# Glossary", "", "What stands here is what `graphopt explain WORD` prints.", ""]
    for word, text in glossary.WORDS.items():
        lines += [f"- **{word}**: {escaped(text)}"]
    return "\n".join(lines)


# ---------------------------------------------------------------- the commands


def commands_page() -> str:
    """The help of every command, as it is printed."""
    lines = ["# Commands", "", "```text", help_of(), "```", ""]
    for command in typer_app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        lines += [f"## graphopt {name}", "", "```text", help_of(name), "```", ""]
    return "\n".join(lines)


def help_of(*command: str) -> str:
    """What ``--help`` prints, at 80 columns."""
    environment = {"COLUMNS": "80", "NO_COLOR": "1", "TERMINAL_WIDTH": "80"}
    done = CliRunner().invoke(typer_app, [*command, "--help"], prog_name="graphopt", env=environment)
    if done.exit_code:
        raise RuntimeError(f"graphopt {' '.join(command)} --help ended with {done.exit_code}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))

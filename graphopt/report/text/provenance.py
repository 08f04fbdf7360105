"""What is recorded in a model, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from rich.table import Table

from graphopt.files import show
from graphopt.report.provenance import Record
from graphopt.report.text.common import escape, table_of, terminal

MOST_PLACES = 5
"""Places shown of a recorded rewrite; the JSON document has all."""
DIGEST = 64
"""Characters of a SHA-256."""


def provenance(records: Sequence[Record], model: Path, original: Path | None, run: int | None) -> None:
    """Prints what is recorded of each run, oldest first.

    Args:
        records: the runs.
        model: the file that they are recorded in.
        original: a file that a run may have read.
        run: the number of the run that did; None when there was none.
    """
    console = terminal()
    if not records:
        console.print(escape(f"{show(model)}: graphopt has recorded nothing in it"), soft_wrap=True)
    for number, record in enumerate(records, start=1):
        if number > 1:
            console.print()
        console.print(escape(f"run {number} of {len(records)}, graphopt {record.version}"), style="bold")
        asked = _input_and_options(record)
        names = max(map(len, record.options), default=0)
        wide = max(console.width, DIGEST + 2 + names)  # a digest in one piece can be copied
        terminal(wide).print(asked)
        if record.rewrites:
            console.print(_rewritten(record))
    if run is not None and original is not None:
        console.print(escape(f"run {run} read {show(original)}"), soft_wrap=True)


def _input_and_options(record: Record) -> Table:
    """What a run read and was asked for."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("input", escape(record.input_sha256))
    for file, digest in record.input_data.items():
        table.add_row("", escape(digest))
        table.add_row("", escape(file))
    for name, value in record.options.items():
        if name == "calibration" and isinstance(value, dict) and "sha256" in value:
            table.add_row(escape(name), escape(str(value["sha256"])))  # in one piece it can be copied
            value = {key: item for key, item in value.items() if key != "sha256"}
            name = ""
        table.add_row(escape(name), escape(_spelled(value)))
    return table


def _spelled(value: object) -> str:
    """An option as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={_spelled(item)}" for key, item in value.items())
    if isinstance(value, list):
        sizes = value and all(isinstance(item, int) for item in value)
        return ("x" if sizes else ", ").join(_spelled(item) for item in value)
    return str(value).encode("utf-8", "backslashreplace").decode()  # a lone surrogate can't be printed


def _rewritten(record: Record) -> Table:
    """What a run did: how often, and where."""
    table = table_of("rewrite", "", ">times", "at")
    for item in record.rewrites:
        choices = [
            ", ".join(f"{key}={value}" for key, value in choice.items() if value) for choice in item.choices
        ]
        places = [
            escape(f"{name} ({choice})" if choice else name)
            for name, choice in zip_longest(item.nodes, choices, fillvalue="")
        ]
        more = len(places) - MOST_PLACES
        shown = [*places[:MOST_PLACES], f"… {more} more, which --json lists"] if more > 1 else places
        table.add_row(escape(item.rewrite), escape(item.exactness), str(len(item.nodes)), "\n".join(shown))
    return table

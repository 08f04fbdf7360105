"""What the text of several commands shares: the terminal, its tables, and the table of figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphopt.errors import printable
from graphopt.report.wording import count, ratio, shortened, total_rows
from graphopt.runtime.latency import Timing
from graphopt.types import Totals

NARROWEST = 80
"""Columns that a table has at least: on a terminal with fewer its lines go on in the next one."""
WIDEST = 2**16
"""Columns that no table takes: derived, the length of the longest name that a model may have."""


class _Console(Console):
    """The terminal, or the file in its place; a table has room for what it says, whatever that has."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as `Console.print`; in a file names are in one piece, and no line ends in blanks."""
        tables = [each for each in objects if isinstance(each, Table)]
        needed = max((self._needed(table) for table in tables), default=0)
        if self.width < needed:
            _Console(highlight=False, emoji=False, width=needed).print(*objects, **options)
        elif self.is_terminal:
            super().print(*objects, **options)
        else:
            with self.capture() as captured:
                super().print(*objects, **options)
            self.file.write("\n".join(line.rstrip(" ") for line in captured.get().split("\n")))

    def _needed(self, table: Table) -> int:
        """Columns that a table takes at least; in a file only its last column goes on below."""
        if self.is_terminal:
            return NARROWEST
        for column in table.columns[:-1]:
            cells = (self.render_str(str(cell)) for cell in (column.header, *column.cells))
            column.min_width = max(line.cell_len for cell in cells for line in cell.split(allow_blank=True))
            column.no_wrap = True
        return max(NARROWEST, self.measure(table, options=self.options.update(width=WIDEST)).minimum)

    def render_str(self, text: str, **options: Any) -> Text:
        """Renders as `Console.render_str`, whatever names are in the text."""
        return super().render_str(printable(text, keep="\n"), **options)


def escape(text: str) -> str:
    """Somebody's words as they are: no markup, on one line, to be seen whole."""
    return markup.escape(printable(text))


def terminal(width: int | None = None) -> Console:
    """Standard output; of the terminal's width where none is given."""
    return _Console(highlight=False, emoji=False, soft_wrap=False, width=width)


def fitted(name: str, width: int = 26) -> str:
    """A name as a terminal has room for it; in a file it is whole."""
    return shortened(name, width) if terminal().is_terminal else name


def table_of(*columns: str) -> Table:
    """A table without rows; the columns whose names begin with ``>`` hold figures and stand to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        right = name.startswith(">")
        table.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=right)
    return table


def warnings(console: Console, texts: Sequence[str]) -> None:
    """Prints what has to be known before anything that follows is trusted."""
    for text in texts:
        console.print(f"[bold yellow]warning[/]: {escape(text)}")


def print_unknown(console: Console, sizes: Sequence[str]) -> None:
    """Prints which sizes nothing told, if any, and what tells them."""
    if sizes:
        console.print(escape(f"unknown sizes: {', '.join(sizes)}; --shape NAME=… gives them"))


def print_totals(console: Console, before: Totals, after: Totals, timing: Timing | None = None) -> None:
    """Prints the figures of a model before and after, with the latency where it was measured.

    Args:
        console: the terminal.
        before: costs of the input.
        after: costs of the result.
        timing: latency of both, where it was measured.
    """
    table = table_of("", ">before", ">after", ">ratio")
    for name, old, new in total_rows(before, after):
        table.add_row(name, count(old), count(new), ratio(old, new))
        if name == "MACs" and timing is not None:  # beside them: MACs are not time
            times = (f"{ms:.3f} ms" for ms in (timing.reference_ms, timing.candidate_ms))
            table.add_row("latency", *times, f"{timing.ratio:.3f}")
    console.print(table)

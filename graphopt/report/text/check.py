"""What exact rewrites would do to models, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.errors import BudgetError
from graphopt.files import show
from graphopt.report.results import Checked
from graphopt.report.text.common import escape, terminal
from graphopt.report.wording import count, numbered


def checked(each: Checked) -> None:
    """Prints one model on one line: what exact rewrites would do to it, or did; a note on one of its own."""
    if each.before is None or each.after is None:
        return
    what = "nothing done" if each.note else "nothing to do"
    if _refused(each):
        what = "rewritten, onnxruntime takes it by now" if each.fixed else "onnxruntime refuses it"
    if each.rewrites:
        macs = _change(count(each.before.macs), count(each.after.macs), "MACs")
        operators = _change(str(each.before.nodes), str(each.after.nodes), "operators")
        names = ", ".join(f"{number} {name}" for name, number in each.rewrites.items())
        what = f"{'rewritten, ' if each.fixed else ''}{macs}, {operators}: {names}"
    console = terminal()
    console.print(escape(f"{show(each.path)}: {what}"), soft_wrap=True)
    if each.note:
        console.print(escape(f"note: {each.note}"), soft_wrap=True)


def _refused(each: Checked) -> bool:
    """Whether nothing can be made cheaper, and the model is another for what onnxruntime refuses it for."""
    return not each.rewrites and (each.fixed or each.exit_code == BudgetError.exit_code)


def _change(before: str, after: str, what: str) -> str:
    return f"{before} {what} as before" if before == after else f"{before} → {after} {what}"


def check(models: Sequence[Checked]) -> None:
    """Prints the outcome for all models."""
    cheaper = sum(each.exit_code == BudgetError.exit_code and bool(each.rewrites) for each in models)
    refused = sum(_refused(each) and not each.fixed for each in models)
    fixed = sum(each.fixed for each in models)
    failed = sum(bool(each.error) for each in models)
    unrun = sum(bool(each.note) and not each.rewrites and not _refused(each) for each in models)
    parts = [
        f"{cheaper} could be made cheaper exactly (--fix does it)" if cheaper else "",
        f"{refused} refused by onnxruntime for shapes (--fix leaves them out)" if refused else "",
        f"{fixed} rewritten" if fixed else "",
        f"{unrun} can't be run" if unrun else "",
        f"{failed} failed" if failed else "",
    ]
    terminal().print(f"{numbered(len(models), 'model')}: {', '.join(filter(None, parts)) or 'nothing to do'}")

"""Whether models are as cheap as exact rewrites make them: what ``graphopt check`` and the commit hook ask.

A model that could be made cheaper is found by doing it, verification included, so that what is found is true.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from graphopt import api, files
from graphopt.errors import INTERNAL, BudgetError, InputError, told
from graphopt.model import io, wire_format
from graphopt.pipeline.opening import disclaimed
from graphopt.pipeline.options.table import as_flag
from graphopt.pipeline.scanning.survey import overridable_note
from graphopt.report.results import Checked, Result


def check(path: Path, *, fix: bool = False, **asked: Any) -> Checked:
    """Finds out whether exact rewrites would change a model. What goes wrong is in what is returned.

    Args:
        path: the model.
        fix: whether to put the rewritten model in its place.
        asked: options of `graphopt.optimize`.

    Returns:
        The costs before and after, the rewrites that apply, and an exit code.
    """
    found = Checked(path)
    try:
        result = api.optimize(path, **asked)
        report = result.report
        applied = Counter(item.candidate.rewrite for item in report.applied)
        code = BudgetError.exit_code if result else 0
        refused = disclaimed(report.source) if report.source.refused else ""
        note = "; ".join(filter(None, [report.unloaded, refused, overridable_note(report.rejected)]))
        found = Checked(path, report.before, report.after, applied, note=note, exit_code=code)
        if not result or not fix:
            return found
        note = "; ".join(filter(None, [note, replace(result, path)]))
    except Exception as error:  # also a bug: the others have nothing to do with it
        code, text = told(error, as_flag)
        if code == INTERNAL:
            text = f"{files.show(path)}: {text}"
        return Checked(path, found.before, found.after, found.rewrites, error=text, exit_code=code)
    return Checked(path, report.before, report.after, applied, fixed=True, note=note)


def replace(result: Result, path: Path) -> str:
    """Puts a rewritten model in the place of its file, external data included: all of it or nothing.

    External data that the rewritten model has no more is removed, unless another model may read it.

    Returns:
        Which external data was left though this model reads it no more, and why; "" where none was.

    Raises:
        InputError: the file is a symbolic link, or its weights are in a file that other models may share; it
            can't be written, or has changed meanwhile.
    """
    where = files.show(path)
    if path.is_symlink():
        raise InputError(f"{where}: is a symbolic link; name the file that it leads to")
    source = result.report.source
    data = files.data_path(path)
    shared = [name for name in source.data_files if name != data.name]
    if shared:
        raise _shared(where, shared[0], "other models may use")
    try:
        with tempfile.TemporaryDirectory(prefix=".graphopt-", dir=path.parent) as folder:
            written = Path(folder) / path.name  # the reference to external data is by name
            result.save(written)
            source.check_unchanged()
            moves = [(written, path)]
            note, other = "", _other_reader(data, path)
            if files.kind_of(files.data_path(written)):
                if other is not None:
                    raise _shared(where, data.name, f"{other.name} reads too")
                moves.insert(0, (files.data_path(written), data))
            elif source.data_files and other is not None:
                note = f"{files.show(data)} is left, as {other.name} reads it too"
            elif source.data_files:
                moves.append((data, Path(folder) / "spare"))  # goes with the folder
            files.move(moves)
    except OSError as error:
        raise InputError(f"{where}: can't be written: {files.reason(error)}") from error
    return note


def _shared(where: str, data: str, why: str) -> InputError:
    """That a model can't be put in its place, since that would change the weights of others."""
    return InputError(
        f"{where}: its weights are in {data}, which {why}; "
        f"write a new file with graphopt optimize {where} -o OUT"
    )


def _other_reader(data: Path, model: Path) -> Path | None:
    """Another model in the folder that reads a model's external data."""
    if files.kind_of(data) != "file":
        return None
    name = data.name.encode(errors="surrogateescape")
    for path in sorted(data.parent.iterdir()):
        if path.name in (data.name, model.name) or not path.is_file():
            continue
        if path.stat().st_size <= wire_format.FILE_LIMIT and files.map_file(path).find(name) >= 0:
            with suppress(InputError):  # it is no model, and only speaks of the file
                if data.name in io.load(path).data_files:
                    return path
    return None

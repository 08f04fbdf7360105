"""Files on disk: read or mapped, checked before and replaced whole when written. Knows no models.

Every failure is an `InputError` of one line that names the file.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import mmap
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, TypeGuard

from graphopt.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PathLike: TypeAlias = "str | os.PathLike[str]"
Content: TypeAlias = "mmap.mmap | bytes"
"""The bytes of a file, mapped where the file system can."""
Stamp: TypeAlias = "tuple[int, ...]"
"""What changes when a file does: its size first; empty when the file is gone."""

CHUNK = 1 << 18
"""Bytes that are copied at a time: they stay in the cache, and the pages behind them can go."""


# --- reading ------------------------------------------------------------------------------------------------


def kind_of(path: PathLike) -> Literal["file", "folder", "other", ""]:
    """What a path leads to, "" for nothing; looked at before opening, since a named pipe waits for a writer.

    Raises:
        InputError: that can't be told, such as of a name that is too long.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a null character
        return ""
    except OSError as error:
        raise InputError(f"{show(Path(path))}: can't be read: {reason(error)}") from error
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def require_file(path: PathLike, what: str = "file") -> None:
    """Makes sure that a path leads to a regular file.

    Args:
        path: the path.
        what: the file should be.

    Raises:
        InputError: it does not.
    """
    wrong = {"": f"no such {what}", "folder": f"is a folder; name a {what}", "other": "is not a regular file"}
    kind = kind_of(path)
    if kind != "file":
        raise InputError(f"{show(Path(path))}: {wrong[kind]}")


def map_file(path: Path) -> Content:
    """The bytes of a file, read only where the file system can't map them."""
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):  # ValueError: an empty file
            return file.read()


def stamp_of(path: Path) -> Stamp:
    """What changes when the file does."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a null character
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ino


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths are one file, also through symbolic or hard links."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def same_content(one: Path, other: Path) -> bool:
    """Whether the second path is a file that holds the bytes of the first."""
    if kind_of(other) != "file" or one.stat().st_size != other.stat().st_size:
        return False
    with open(one, "rb") as a, open(other, "rb") as b:
        while chunk := a.read(CHUNK):
            if chunk != b.read(CHUNK):
                return False
    return True


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        InputError: it is no file, can't be read, or is no valid TOML; the message then names line and column.
    """
    require_file(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")  # as some editors write it, with a mark in front
        return tomllib.loads(text)
    except OSError as error:
        raise InputError(f"{show(path)}: can't be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{show(path)}: no valid TOML: no UTF-8 text (at byte {error.start})") from error
    except (ValueError, RecursionError) as error:  # RecursionError: brackets within brackets
        raise InputError(f"{show(path)}: no valid TOML: {reason(error)}") from error


def own_function(named: object, name: str, folder: Path | None = None) -> Callable[..., Any]:
    """A function of the user's.

    Args:
        named: what named it, for messages.
        name: ``package.module:function``.
        folder: where the module is looked for besides Python's path; the current folder where not given.

    Returns:
        The function.

    Raises:
        InputError: there is no such function.
    """
    module, _, function = name.partition(":")
    here = str(folder or Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (Exception, SystemExit) as error:  # whatever a user's code does
        raise InputError(f"{named}: {type(error).__name__}: {error}") from error
    finally:
        with contextlib.suppress(ValueError):  # the module may have changed the path
            sys.path.remove(here)
    return found


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number that a float can hold, neither infinite nor true or false."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # whole numbers have no limit
        return False


# --- output paths -------------------------------------------------------------------------------------------


WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
"""That somebody may write a file; where nobody may, it is protected."""


def data_path(path: PathLike) -> Path:
    """Where `model.io.save` puts external data: ``OUT.data`` beside OUT."""
    return Path(path).with_name(Path(path).name + ".data")


def check_output(path: PathLike, inputs: Iterable[PathLike] = ()) -> None:
    """Refuse an output path before any work is done.

    Args:
        path: where the model is to be written.
        inputs: files that neither it nor its external data may replace, such as `Source.files`.

    Raises:
        InputError: the path is one of the inputs, also through a link; it is a folder, no regular file, or
            write-protected; its folder does not exist or can't be written to; its ``.data`` is one of the
            inputs.
    """
    out = Path(path)
    where = show(out)
    kind = kind_of(out)
    if kind == "folder" or os.fspath(path).endswith(os.sep) or not out.name:
        raise InputError(f"{where}: is a folder; name the file to write")
    above = kind_of(out.parent)
    if not above:
        raise InputError(f"{where}: the folder {show(out.parent)} does not exist; create it first")
    if above != "folder":
        raise InputError(f"{where}: {show(out.parent)} is not a folder")
    if kind == "other":
        raise InputError(f"{where}: exists and is not a regular file; name another")
    if kind == "file" and not stat.S_IMODE(out.stat().st_mode) & WRITABLE:
        raise InputError(f"{where}: is write-protected; name another, or let it be written")
    if not os.access(out.parent, os.W_OK):
        raise InputError(f"{where}: no permission to write to the folder {show(out.parent)}")
    for given in map(Path, inputs):
        if same_file(out, given):
            raise InputError(f"{where}: is the input {show(given)}; name another output")
        if same_file(data_path(out), given):
            raise InputError(f"{where}: its data would replace the input {show(given)}; name another output")


# --- writing ------------------------------------------------------------------------------------------------


class _Held:
    """Files that are complete and have not taken their places.

    Attributes:
        moves: each with its place.
        undo: what else has to be undone if they never do.
    """

    def __init__(self) -> None:
        self.moves: list[tuple[Path, Path]] = []
        self.undo = ExitStack()


_held: ContextVar[_Held | None] = ContextVar("held", default=None)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Lets all files that are written within take their places at the end, or on any exception none.

    Raises:
        InputError: a file can't be put in its place.
    """
    held = _Held()
    token = _held.set(held)
    with held.undo:
        try:
            yield
            _move(held.moves)
            held.undo.pop_all()
        finally:
            _held.reset(token)
            for beside, _ in held.moves:
                beside.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(*targets: Path) -> Iterator[list[BinaryIO]]:
    """Temporary files that take the place of the targets, in this order, or on any exception are removed.

    Raises:
        InputError: a file can't be written.
    """
    beside = [_beside(target) for target in targets]
    held = _held.get()
    kept = False
    try:
        with ExitStack() as stack:
            yield [stack.enter_context(open(path, "xb", buffering=CHUNK)) for path in beside]
        moves = list(zip(beside, targets, strict=True))
        if held is None:
            _move(moves)
        else:
            held.moves += moves
            kept = True
    except OSError as error:
        raise InputError(f"{show(targets[-1])}: can't be written: {reason(error)}") from error
    finally:
        for path in () if kept else beside:
            path.unlink(missing_ok=True)


def _move(moves: Sequence[tuple[Path, Path]]) -> None:
    """Like `move`, with an error that names the file."""
    try:
        move(moves)
    except OSError as error:
        where = Path(error.filename2 or moves[-1][1])
        raise InputError(f"{show(where)}: can't be written: {reason(error)}") from error


def _beside(target: Path) -> Path:
    """A name in the target's folder that nothing else has: a rename within a folder is atomic."""
    return target.with_name(f".graphopt-{secrets.token_hex(8)}.tmp")


def move(moves: Sequence[tuple[Path, Path]]) -> None:
    """Rename all or none: on any exception, what the targets were before is put back."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for origin, target in moves:
            backup = None
            if os.path.lexists(target):
                if target.is_file():
                    shutil.copymode(target, origin)
                backup = _beside(target)
                _keep(target, backup)
            done.append((target, backup))
            os.replace(origin, target)
    except BaseException:
        for target, backup in reversed(done):
            if backup is not None:
                os.replace(backup, target)
                backup.unlink(missing_ok=True)  # renaming a file to another of its names does nothing
            else:
                target.unlink(missing_ok=True)
        raise
    for _, backup in done:
        if backup is not None:
            backup.unlink(missing_ok=True)


def _keep(path: Path, backup: Path) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    try:
        os.link(path, backup, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, backup, follow_symlinks=False)


def copy_files(copies: Sequence[tuple[Path, Path]]) -> None:
    """Copy all or none, byte by byte; folders that are missing are made.

    Raises:
        InputError: a file or folder can't be written.
    """
    with ExitStack() as undo:
        for _, target in copies:
            make_folders(target.parent, undo)
        with staged(*(target for _, target in copies)) as files:
            for (origin, _), file in zip(copies, files, strict=True):
                with open(origin, "rb") as data:
                    shutil.copyfileobj(data, file, CHUNK)
        held = _held.get()
        if held is None:
            undo.pop_all()
        else:
            held.undo.push(undo.pop_all())


def make_folders(folder: Path, undo: ExitStack) -> None:
    """Make a folder, and those above it, where there is none.

    Args:
        folder: what is wanted.
        undo: where what removes them again is put.

    Raises:
        InputError: one can't be made.
    """
    missing = []
    while not kind_of(folder):
        missing.append(folder)
        folder = folder.parent
    if kind_of(folder) != "folder":
        raise InputError(f"{show(folder)}: is a file; name a folder")
    for new in reversed(missing):
        try:
            new.mkdir()
        except OSError as error:
            raise InputError(f"{show(new)}: can't be created: {reason(error)}") from error
        undo.callback(new.rmdir)


def write_text(path: Path, text: str) -> None:
    """Write a text file and end its last line; it is there whole or not at all.

    Raises:
        InputError: it can't be written.
    """
    with staged(path) as (file,):
        file.write(f"{text}\n".encode(errors="backslashreplace"))  # a path may hold bytes that are no text


# --- messages -----------------------------------------------------------------------------------------------


def show(path: Path) -> str:
    """The path as it is, or escaped when a terminal would take it for more than one line of text."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def reason(error: BaseException) -> str:
    """An exception in one short line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = " ".join((text or type(error).__name__).split())
    return line if len(line) <= 200 else line[:199] + "…"

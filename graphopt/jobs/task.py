"""One model's work: what to do with it and what to write, and how that is checked before it is begun.

The command line makes one of its options, a recipe one for each of its models; `jobs.outcome` does it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from graphopt.errors import InputError, Named, Words
from graphopt.files import check_output, data_path, kind_of, require_file, show
from graphopt.pipeline.options.table import RUN, as_flag, as_key
from graphopt.planning import CONFIDENCE
from graphopt.report.faces import FACES

if TYPE_CHECKING:
    from graphopt.calibration.batch_axis import SampleAxes
    from graphopt.calibration.reading import Given
    from graphopt.calibration.sources.own import OwnInputs

WRITTEN = ("out", *FACES)
"""The fields that name files to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to do with one model. What is not listed here is an option of `graphopt.optimize`, under its name.

    Attributes:
        model: the model's file.
        out: the model to write; None where none is to be written.
        calibration: a file or folder of inputs, or ``package.module:function``, which returns some.
        preprocess: how images become inputs: a preset or a TOML file.
        external_data: whether weights go to ``OUT.data``.
        report: where the report is written as JSON.
        html: where it is written as a page.
        markdown: where its summary is written.
        junit: where comparisons, budget and gates are written as test results.
        folder: where the measure's module is looked for; the current folder where None.
        recipe: the file that says all this; None where it is the command line.
        said: where each of these was said, for messages; "" names the task itself.
    """

    model: Path
    out: Path | None = None
    calibration: Path | None = None
    preprocess: str | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    require: Sequence[str] = ()
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    at: Sequence[str] = ()
    keep: Sequence[str] = ()
    outputs: Sequence[str] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    sample_axis: SampleAxes = field(default_factory=dict)
    aim: Literal["time", "macs"] = "time"
    gate: str | None = None
    freeze_initializers: bool = False
    external_data: Literal["auto", "always", "never"] = "auto"
    metric: str | None = None
    confidence: float | str = CONFIDENCE
    memory: int | None = None
    force: bool = False
    floor: str | None = None
    tune: str | float | None = None
    seed: int = 0
    report: Path | None = None
    html: Path | None = None
    markdown: Path | None = None
    junit: Path | None = None
    folder: Path | None = None
    recipe: Path | None = None
    said: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def blamed(self, key: str) -> Iterator[None]:
        """Lets an `InputError` say where the value was said that it is about."""
        try:
            yield
        except InputError as error:
            where, message = self.said.get(key), error.worded(self.words)
            raise InputError(f"{where}: {message}" if where else message) from error

    @property
    def words(self) -> Words:
        """What messages call options: a recipe's keys where there is a recipe."""
        return as_flag if self.recipe is None else as_key

    @property
    def reads(self) -> list[Path]:
        """The files that it reads, and must not replace; not yet the model's external data."""
        found = [self.model]
        if self.recipe is not None:
            found.append(self.recipe)
        if self.calibration is not None:
            own = own_inputs(self.calibration, self.folder)
            found += [self.calibration, *_inside(self.calibration)] if own is None else [own.file]
        if self.preprocess is not None:
            found.append(Path(self.preprocess))
        if self.metric is not None:
            from graphopt.verification.metrics.task import files

            found += files(self.metric, self.folder or Path())
        return found

    @property
    def timed(self) -> str:
        """What it asks of measured latency, such as ``gate latency``; "" where that decides nothing.

        Raises:
            InputError: a gate is none.
        """
        from graphopt.measures.registry import all_figures
        from graphopt.planning import gates

        if self.gate == "latency":
            return "gate latency"
        if "latency" in self.budget:
            return "budget latency"
        if any(gate.key == "latency" for gate in gates.parse(self.require, all_figures())):
            return "require latency"
        return ""

    def arguments(self) -> dict[str, Any]:
        """The arguments of `graphopt.optimize` besides the model and the inputs."""
        from graphopt.verification.metrics.task import named

        asked = {option.name: getattr(self, option.name) for option in RUN}
        if self.metric is not None:
            asked["metric"] = named(self.metric, self.folder)
        return asked


def given_inputs(
    calibration: Path | None, preprocess: str | None, folder: Path | None = None
) -> Given | None:
    """The calibration inputs of a file, a folder or a function, and of how images in it are preprocessed.

    Args:
        calibration: where they are, or ``package.module:function``.
        preprocess: a preset or a TOML file.
        folder: where that module is looked for; the current folder where None.

    Returns:
        What `graphopt.optimize` takes.

    Raises:
        InputError: ``preprocess`` stands alone, or names neither a preset nor a readable file.
    """
    own = None if calibration is None else own_inputs(calibration, folder)
    if preprocess is None:
        return own or calibration
    if own is not None:
        raise InputError(f"{Named('preprocess')} is of images, not of {Named('calibration', own.name)}")
    if calibration is None:
        raise InputError(
            f"{Named('preprocess')} says how images are read: name their folder with {Named('calibration')}"
        )
    from graphopt.calibration import images, preprocessing

    return images.Images(calibration, preprocessing.preset(preprocess))


def own_inputs(calibration: Path, folder: Path | None) -> OwnInputs | None:
    """The function that calibration inputs come from; None where they lie in files."""
    from graphopt.calibration.sources.own import OwnInputs, is_function

    return OwnInputs(str(calibration), folder) if is_function(calibration, folder) else None


def parse_size(given: str) -> int:
    """Bytes of a size such as 4G or 512M.

    Raises:
        InputError: it can't be read.
    """
    from graphopt.runtime.limits.memory import parse_bytes

    try:
        return parse_bytes(given)
    except ValueError:
        raise InputError(f"{Named('memory', given)}: expected a size such as 4G or 512M") from None


# ---------------------------------------------------------------- before any work is done

_Owner: TypeAlias = "tuple[tuple[int, str] | None, str]"
"""Who writes a file: the task's number and key, None for all tasks together; and where that was said."""


def check_files(tasks: Sequence[Task], others: Mapping[str, Path] | None = None) -> None:
    """Refuses files that can't be written, would replace an input, or are named twice.

    Args:
        tasks: what is to be done.
        others: more files that will be written, by what names them.

    Raises:
        InputError: the first of these that there is.
    """
    read = _Read(tasks)
    taken: dict[str, _Owner] = {}
    for name, path in (others or {}).items():
        check_output(path, read.as_one(path))
        other = taken.setdefault(os.path.realpath(path), (None, name))
        if other != (None, name):
            raise InputError(f"{show(path)}: {_twice(tasks, other, (None, name))}")
    for number, task in enumerate(tasks):
        for key in WRITTEN:
            path = getattr(task, key)
            if path is None:
                continue
            owner: _Owner = ((number, key), task.said.get(key, f"--{key}"))
            with task.blamed(key):
                if key == "html":
                    from graphopt.report import html

                    html.require(Named("html"))
                check_output(path, read.as_one(path))
                for file in (path, data_path(path)) if key == "out" else (path,):
                    other = taken.setdefault(os.path.realpath(file), owner)
                    if other != owner:
                        raise InputError(f"{show(file)}: {_twice(tasks, other, owner)}")


class _Read:
    """The files that tasks read, by what the file system knows them by: links lead to the same."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._data_too = False
        self._found = {_identity(path): path for task in tasks for path in task.reads}

    def as_one(self, output: Path) -> list[Path]:
        """Those that are the output, or the external data beside it."""
        files = (output, data_path(output)) if output.name else ()
        places = [place for place in map(_identity, files) if place is not None]
        if places and not self._data_too:  # a file would be replaced: it may be the weights of a model
            self._data_too = True
            self._found |= {_identity(path): path for task in self._tasks for path in _data(task)}
        return [self._found[place] for place in places if place in self._found]


def _inside(path: Path) -> Iterator[Path]:
    """What is in a folder; nothing where it is none, or can't be read."""
    with suppress(OSError):
        yield from path.iterdir()


def _identity(path: Path) -> tuple[int, int] | None:
    """What a file is known by; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a null character
        return None
    return status.st_dev, status.st_ino


def _data(task: Task) -> tuple[Path, ...]:
    """The model's file and its external data; nothing where it can't be read, which is told later."""
    from graphopt.model import io

    try:
        return io.load(task.model).files
    except InputError:
        return ()


def _twice(tasks: Sequence[Task], first: _Owner, second: _Owner) -> str:
    """Why a file can't be written: two want to."""
    if first[0] is None or second[0] is None or first[1] != second[1]:
        return f"is written by {first[1]} too; name another"
    models = [tasks[number].model for number, _ in (first[0], second[0])]
    if models[0] == models[1]:
        return f"is written by {first[1]} too; name another"
    return f"is to be written for {show(models[0])} and {show(models[1])}; give each a file of its own"


def check_options(tasks: Sequence[Task]) -> None:
    """Refuses what can't be done whatever the models hold.

    A recipe that names a model which is not there is wrong; one of many that were named one by one, or by a
    pattern, is that model's own failure.

    Raises:
        InputError: a file is not there, or an option has a value that it can't have, or lacks another.
    """
    from graphopt.pipeline.options.checked import make_options

    for task in tasks:
        with task.blamed("model"):
            kind = kind_of(task.model) if task.recipe is not None else "file"
            if kind == "folder":
                raise InputError(f"{show(task.model)}: is a folder; name a model file in it")
            if not kind:
                raise InputError(f"{show(task.model)}: no such file")
        with task.blamed("calibration"):
            given = task.calibration
            if given is not None and not own_inputs(given, task.folder) and kind_of(given) != "folder":
                require_file(given, "file or folder")
        with task.blamed("preprocess"):
            given_inputs(task.calibration, task.preprocess, task.folder)
        with task.blamed(""):
            make_options(**task.arguments(), calibrated=task.calibration is not None)

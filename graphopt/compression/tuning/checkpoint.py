"""Checkpoints: a file that holds where a run of tuning is, so that one that was ended goes on from there.

All that decides the steps to come is in it: weights, what the optimiser remembers, and the random numbers. A
run that goes on takes the same steps as one that was not ended.
"""

from __future__ import annotations

import json
import math
import time
import zipfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphopt import files
from graphopt.compression.tuning.course import Check, Course, Place
from graphopt.errors import InputError
from graphopt.numerics.optimiser import Soap
from graphopt.types import Array

EVERY = 60.0
"""Seconds between two checkpoints: no result depends on it."""
STATE = "state"
"""The array that holds everything but numbers of weights, as JSON."""


@dataclass
class Checkpoint:
    """The file of a run.

    Attributes:
        path: the file.
        run: what tells the run from others: a digest of all that decides it.
        begun: the step that the run goes on from; 0 where there was no file.
    """

    path: Path
    run: str
    begun: int = 0
    _written: float = field(default_factory=time.monotonic)

    @property
    def there(self) -> bool:
        """Whether there is a file to go on from."""
        return files.kind_of(self.path) == "file"

    def read(self) -> tuple[int, Course, Place] | None:
        """The steps of the whole run, what came of it, and where it is; None where there is no file.

        Raises:
            InputError: the file can't be read, is no checkpoint, or one of another run.
        """
        if not self.there:
            return None
        try:
            with np.load(self.path, allow_pickle=False) as held:
                arrays = {name: held[name] for name in held.files}
            state: dict[str, Any] = json.loads(arrays.pop(STATE).tobytes())
            run = state["run"]
            found = _read(state, arrays) if run == self.run else None
        except OSError as error:
            where = files.show(self.path)
            raise InputError(f"{where}: can't be read: {files.reason(error)}") from error
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{files.show(self.path)}: is no checkpoint of tuning: name another file"
            ) from error
        if found is None:
            raise InputError(
                f"{files.show(self.path)}: is the checkpoint of a run with other models, inputs or options: "
                "name another file, or remove it"
            )
        self.begun = found[2].step
        return found

    def keep(self, steps: int, course: Course, place: Place) -> None:
        """Writes the file, where the last one is old enough.

        Args:
            steps: of the whole run.
            course: what came of it.
            place: where it is.

        Raises:
            InputError: the file can't be written.
        """
        if time.monotonic() - self._written < EVERY:
            return
        state = {
            "run": self.run,
            "steps": steps,
            "step": place.step,
            "at": place.at,
            "random": place.rng.bit_generator.state,
            "taken": place.optimiser.steps,
            "cuts": course.cuts,
            "rate": course.rate,
            "best": asdict(course.best),
            "checks": [asdict(check) for check in course.checks],
            "seconds": dict(course.seconds),
        }
        arrays: dict[str, Any] = {
            STATE: np.frombuffer(json.dumps(state).encode(), np.uint8),
            "order": place.order,
            **{f"best/{name}": array for name, array in course.weights.items()},
            **{f"now/{name}": array for name, array in place.weights.items()},
            **{f"optimiser/{name}": array for name, array in place.optimiser.held().items()},
        }
        with files.staged(self.path) as (file,):
            np.savez(file, **arrays)
        self._written = time.monotonic()

    def done(self) -> None:
        """Removes the file: the run is over."""
        self.path.unlink(missing_ok=True)


def _read(state: dict[str, Any], arrays: dict[str, Any]) -> tuple[int, Course, Place]:
    """Steps, course and place of a state and the arrays beside it."""

    def part(kind: str) -> dict[str, Array]:
        return {name.removeprefix(kind): array for name, array in arrays.items() if name.startswith(kind)}

    course = Course(
        part("best/"),
        [Check(**check) for check in state["checks"]],
        state["rate"],
        Check(**state["best"]),
        state["cuts"],
        defaultdict(float, state["seconds"]),
    )
    rng = np.random.default_rng()
    rng.bit_generator.state = state["random"]
    optimiser = Soap.of(state["taken"], part("optimiser/"))
    place = Place(part("now/"), optimiser, rng, arrays["order"], state["at"], state["step"])
    if not (math.isfinite(course.rate) and 0 <= place.step <= state["steps"]):
        raise ValueError(place.step)
    return state["steps"], course, place

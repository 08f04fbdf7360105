"""How long a network is tuned, as it is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from graphopt.errors import InputError, Named

AUTO = "auto"
"""What stands for `STEPS`."""
COUNTED = "steps="
"""What stands before a number of steps where minutes are meant else."""
STEPS = 1000
"""Steps where neither steps nor minutes are named. Measured by benchmarks.tuning on a ResNet-20 at 0.3 of the
MACs: 1,000 take some four minutes of one core, and win 0.9 dB; 4,000 win 1.3."""
FEWEST = 100
"""Steps at least: derived, twice those after which a rate is judged."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long a network is tuned; the usual number of steps where nothing is said.

    Attributes:
        steps: so many; None where minutes say it.
        minutes: so long, about; None where steps say it.
    """

    steps: int | None = STEPS
    minutes: float | None = None

    def __str__(self) -> str:
        return f"{self.minutes:g}" if self.minutes is not None else f"{COUNTED}{self.steps}"


def make_effort(minutes: float | None, steps: int | None) -> Effort:
    """How long a network is tuned, checked.

    Args:
        minutes: so long.
        steps: or so many steps.

    Returns:
        The effort.

    Raises:
        InputError: both are named, or one is no such number.
    """
    if minutes is not None and steps is not None:
        raise InputError(f"{Named('minutes')} and {Named('steps')} say how long twice: name one")
    if minutes is not None and not (isinstance(minutes, Real) and 0 < minutes < math.inf):
        raise InputError(f"{Named('minutes', str(minutes))}: expected a number above 0")
    if steps is not None and not (isinstance(steps, Integral) and steps >= FEWEST):
        raise InputError(f"{Named('steps', str(steps))}: expected a whole number, at least {FEWEST}")
    return Effort(None, float(minutes)) if minutes is not None else Effort(steps or STEPS)


def parsed_effort(given: str | float | None) -> Effort | None:
    """How long a network is tuned, from what an option says of it.

    Args:
        given: ``auto``, minutes, or ``steps=`` and their number; None where nothing is tuned.

    Returns:
        The effort, or None.

    Raises:
        InputError: it is none of them.
    """
    if given is None or given == AUTO:
        return None if given is None else Effort()
    text, asked = str(given), Named("tune", str(given))
    number = text.removeprefix(COUNTED)
    try:
        return make_effort(None, int(number)) if number != text else make_effort(float(text), None)
    except (ValueError, InputError):
        raise InputError(
            f"{asked}: expected minutes, {AUTO}, or {COUNTED}N of at least {FEWEST} steps"
        ) from None

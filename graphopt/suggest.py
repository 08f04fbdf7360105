"""What somebody may have meant by a name that is not known."""

from __future__ import annotations

import math
from collections.abc import Iterable


def hint(name: str, known: Iterable[str]) -> str:
    """A question for the most similar known name, else the list of all."""
    import difflib  # only where something is wrong

    listed = list(known)
    near = difflib.get_close_matches(name, listed, 1, 0.5)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(listed) or 'none'}"


def percentage(text: str) -> float | None:
    """The part that a percentage is, such as 0.5 of 50%; None where the text is none."""
    try:
        part = float(text.removesuffix("%")) / 100
    except ValueError:
        return None
    return part if text.endswith("%") and math.isfinite(part) else None

"""What a shell may complete: names that graphopt knows. Looked up when the shell asks, never on the way."""

from __future__ import annotations

from collections.abc import Iterator


def rewrite(incomplete: str) -> list[tuple[str, str]]:
    """The rewrites whose names begin like this, with their summaries."""
    from graphopt.rewrites import registry as catalogue

    available = catalogue.registry().values()
    return [(each.name, catalogue.summary(each)) for each in available if each.name.startswith(incomplete)]


def explained(incomplete: str) -> list[tuple[str, str]]:
    """The rewrites and the words of reports that begin like this, with what they are."""
    from graphopt.report import glossary

    words = ((word, text.partition(".")[0]) for word, text in glossary.WORDS.items())
    return [*rewrite(incomplete), *((word, text) for word, text in words if word.startswith(incomplete))]


def rewrites(incomplete: str) -> list[str]:
    """The last name of a list A,B, completed, behind those before it."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name, _ in rewrite(last) if name not in before.split(",")]


def budget(incomplete: str) -> Iterator[str]:
    """The keys of a budget, up to the value."""
    from graphopt.measures.registry import all_figures
    from graphopt.planning import gates

    return (f"{key}=" for key in (*gates.KEYS, *all_figures()) if f"{key}=".startswith(incomplete))


def gate(incomplete: str) -> Iterator[str]:
    """The keys of gates with their directions, up to the limit."""
    from graphopt.measures.registry import all_figures
    from graphopt.planning import gates

    figures = all_figures()
    shown = (f"{key}{gates.sign(key, figures.get(key))}" for key in (*gates.KEYS, *figures))
    return (text for text in shown if text.startswith(incomplete))


def metric(incomplete: str) -> list[str]:
    """The names of ready measures."""
    from graphopt.measures.tasks import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


def preset(incomplete: str) -> list[str]:
    """The names of image presets."""
    from graphopt.calibration.preprocessing import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]

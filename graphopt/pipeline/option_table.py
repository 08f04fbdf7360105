"""What can be asked of graphopt: each option once, with its names, type, default and words.

The command line, recipes, Olive's parameters, and what a model and a report record are made of this table.
The signatures of `graphopt.optimize` and its like are written out, and tested against it. It imports nothing
that ``graphopt --help`` would have to wait for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import Named


@dataclass(frozen=True, slots=True)
class Option:
    """An option, or an argument of commands.

    Attributes:
        name: what Python calls it.
        type: of its value in Python.
        default: what holds where nothing is said.
        help: what it is, as recipes have it.
        shown: what the command line shows of its value.
        brief: what it is, as the command line has it; ``help`` as a sentence where "".
        typed: the type of what is typed on the command line; that of the value where None.
        flag: what the command line calls it; "" makes it of the name.
        short: the same in one letter.
        key: what a recipe calls it; the name where "".
        choices: what its value may be; anything where empty.
        least: the smallest number that the command line takes.
        argument: whether the command line takes it by its place.
        recorded: whether it decides the result, so that the model itself tells it.
        described: whether the report tells it.
    """

    name: str
    type: Any
    default: Any
    help: str
    shown: str | None = None
    brief: str = ""
    typed: Any = None
    flag: str = ""
    short: str = ""
    key: str = ""
    choices: tuple[str, ...] = ()
    least: int | None = None
    argument: bool = False
    recorded: bool = True
    described: bool = True

    @property
    def spelled(self) -> str:
        """The flag of the command line."""
        return self.flag or f"--{self.name.replace('_', '-')}"

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag in one letter, where there is one, and the flag."""
        return (self.short, self.spelled) if self.short else (self.spelled,)

    @property
    def sentence(self) -> str:
        """What it is, as a sentence."""
        return f"{self.help[0].upper()}{self.help[1:]}."


_NAMES = list[str]
SWEPT = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Parts of the MACs that a sweep makes networks for."""

RUN = (
    Option(
        "budget",
        dict[str, float],
        None,
        "what the result has to reach: parts of the input's cost, or a quality",
        "KEY=VALUE",
        "What the result has to reach, such as macs=0.7. Repeatable.",
        _NAMES,
    ),
    Option(
        "options",
        dict[str, Any],
        None,
        "options of rewrites, such as { bottleneck = { rank_in = 16 } }",
        "REWRITE.OPTION=VALUE",
        "An option of a rewrite. Repeatable.",
        _NAMES,
        flag="--set",
        key="set",
    ),
    Option(
        "aim",
        str,
        "time",
        "exact rewrites that are expected to be faster, or all that save MACs",
        choices=("time", "macs"),
    ),
    Option(
        "gate",
        str,
        None,
        "measure each changed region, and drop what is slower",
        "latency",
        "Measure each changed region, drop what is slower.",
    ),
    Option("only", _NAMES, (), "only these rewrites", "A,B", described=False),
    Option("skip", _NAMES, (), "not these rewrites", "A,B", described=False),
    Option(
        "at",
        _NAMES,
        (),
        "rewrite only nodes whose names match one of these patterns",
        "NODE_GLOB",
        "Rewrite only these nodes. Repeatable.",
    ),
    Option(
        "keep",
        _NAMES,
        (),
        "never rewrite nodes whose names match one of these patterns",
        "NODE_GLOB",
        "Never rewrite these nodes. Repeatable.",
    ),
    Option(
        "outputs",
        _NAMES,
        (),
        "the model's outputs that count",
        "NAME",
        "An output that counts. Repeatable.",
        flag="--output",
    ),
    Option(
        "shapes",
        dict[str, list[int]],
        None,
        "sizes of inputs, such as { image = [1, 3, 224, 224] }",
        "NAME=1x3x224x224",
        "Size of an input. Repeatable.",
        _NAMES,
        flag="--shape",
    ),
    Option("seed", int, 0, "of everything random", "N", least=0),
    Option(
        "freeze_initializers",
        bool,
        False,
        "whether initializers that are inputs too are constants",
        brief="Initializers that are also inputs are constants.",
    ),
    Option(
        "metric",
        str,
        None,
        "your own measure, module:function: from a model's path to a number",
        "MODULE:FUNCTION",
        "Your own measure: a function from a model's path to a number.",
    ),
    Option(
        "memory",
        int,
        None,
        "for activations while fitting, such as 4G; more lies in files",
        "BYTES",
        typed=str,
        recorded=False,
        described=False,
    ),
    Option(
        "require",
        _NAMES,
        (),
        "what the result has to keep, whatever it was made for, such as agreement>=0.98",
        "KEY<=VALUE",
        "What the result has to keep, such as 'macs<=0.8' or 'agreement>=0.99'. Repeatable.",
        recorded=False,
    ),
)
"""The options of `graphopt.optimize`, in the order in which the report tells them."""

OTHERS = (
    Option("model", Path, ..., "the ONNX model", "MODEL", argument=True),
    Option("reference", Path, ..., "the original model", "REFERENCE", argument=True),
    Option("candidate", Path, ..., "the rewritten model", "CANDIDATE", argument=True),
    Option("before", Path, ..., "the model as it was", "A", argument=True),
    Option("after", Path, ..., "the model as it is", "B", argument=True),
    Option("out", Path, None, "the model to write", "OUT", short="-o"),
    Option(
        "calibration",
        Path,
        None,
        "preprocessed inputs: .npz, .npy, or a folder of them or of images",
        "FILE",
    ),
    Option(
        "preprocess",
        str,
        None,
        "how images become inputs: a preset such as imagenet, or a TOML file",
        "PRESET|FILE.toml",
        "How images become inputs, such as imagenet.",
    ),
    Option("budgets", list[float], SWEPT, "parts of the MACs to make networks for", "0.9,0.8,…", typed=str),
    Option(
        "external_data",
        str,
        "auto",
        "whether weights go to OUT.data",
        choices=("auto", "always", "never"),
    ),
    Option("report", Path, None, "where the report is written as JSON", "FILE.json", "Write the report."),
    Option(
        "html",
        Path,
        None,
        "where the report is written as a page",
        "FILE.html",
        "Write the report as a page.",
    ),
    Option(
        "markdown", Path, None, "where its summary is written", "FILE.md", "Write a summary of the report."
    ),
    Option(
        "junit",
        Path,
        None,
        "where checks and gates are written as test results",
        "FILE.xml",
        "Write checks and gates as test results.",
    ),
    Option("threads", int, 1, "threads that one operator may use", "N"),
    Option("repeat", int, 50, "pairs of runs", "N"),
    Option(
        "provider", str, "CPUExecutionProvider", "onnxruntime's provider", "NAME", "onnxruntime's provider."
    ),
    Option("dry_run", bool, False, "plan and verify, and write no model"),
    Option("json", bool, False, "print one JSON document and nothing else"),
    Option("quiet", bool, False, "show no progress: the result and errors alone", short="-q"),
)
"""Whatever else more than one way of asking knows, and the arguments of commands."""

TABLE: Mapping[str, Option] = {option.name: option for option in (*RUN, *OTHERS)}


# ---------------------------------------------------------------- options in messages


def as_flag(named: Named) -> str:
    """An option of a message as the command line spells it, such as ``--budget macs=0.7``."""
    option = TABLE.get(named.name)
    flag = f"--{named.name.replace('_', '-')}" if option is None else option.spelled
    return f"{flag} {named.said}".rstrip()


def as_key(named: Named) -> str:
    """An option of a message as a recipe has it, such as ``budget.macs=0.7``."""
    option = TABLE.get(named.name)
    if option is None:  # there is no such key
        return as_flag(named)
    return f"{option.key or option.name}{'.' if named.key else ' '}{named.said}".rstrip(" ")

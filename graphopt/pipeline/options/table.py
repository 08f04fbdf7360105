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
from graphopt.measures.tasks import NAMES
from graphopt.planning import CONFIDENCE


@dataclass(frozen=True, slots=True)
class Option:
    """An option, or an argument of commands. Without a flag of its own it is spelled like its name.

    Attributes:
        name: what Python calls it.
        type: of its value in Python.
        default: what holds where nothing is said; ``...`` where something has to be.
        help: what it is, as recipes have it.
        brief: what it is, as the command line has it; ``help`` as a sentence where "".
        shown: what the command line shows of its value.
        typed: the type of what is typed on the command line; that of the value where None.
        flag: what the command line calls it.
        short: the same in one letter; "" where there is none.
        key: what a recipe calls it; the name where "".
        choices: what its value may be; anything where empty.
        least: the smallest number that the command line takes.
        recorded: whether it decides the result, so that the model itself tells it.
        described: whether the report tells it.
    """

    name: str
    type: Any
    default: Any
    help: str
    brief: str = ""
    shown: str | None = None
    typed: Any = None
    flag: str = ""
    short: str = ""
    key: str = ""
    choices: tuple[str, ...] = ()
    least: int | None = None
    recorded: bool = True
    described: bool = True

    @property
    def spelled(self) -> str:
        """The flag of the command line."""
        return self.flag or f"--{self.name.replace('_', '-')}"

    @property
    def sentence(self) -> str:
        """What it is, as a sentence."""
        return f"{self.help[0].upper()}{self.help[1:]}."


SWEPT = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Parts of the MACs that a sweep makes networks for: tenths. Measured by benchmarks.thresholds: at 0.9, 0.5,
0.3 and 0.2 a network keeps 50, 34, 29 and 25 dB."""
TEXTS = list[str]

RUN = (
    Option("budget", dict[str, float], None, shown="KEY=VALUE", typed=TEXTS,
           help="what the result has to reach: parts of the input's cost, or a quality",
           brief="What has to be reached, such as macs=0.7 or agreement=0.98. Repeatable."),
    Option("options", dict[str, Any], None, shown="REWRITE.OPTION=VALUE", typed=TEXTS, flag="--set",
           key="set", help="options of rewrites, such as { bottleneck = { rank_in = 16 } }",
           brief="An option of a rewrite. Repeatable."),
    Option("aim", str, "time", choices=("time", "macs"),
           help="exact rewrites that are expected to be faster, or all that save MACs"),
    Option("gate", str, None, shown="latency", help="measure each changed region, and drop what is slower",
           brief="Measure each changed region, drop what is slower."),
    Option("only", TEXTS, (), shown="A,B", described=False, help="only these rewrites"),
    Option("skip", TEXTS, (), shown="A,B", described=False, help="not these rewrites"),
    Option("at", TEXTS, (), shown="NODE_GLOB", brief="Rewrite only these nodes. Repeatable.",
           help="rewrite only nodes whose names match one of these patterns"),
    Option("keep", TEXTS, (), shown="NODE_GLOB", brief="Never rewrite these nodes. Repeatable.",
           help="never rewrite nodes whose names match one of these patterns"),
    Option("outputs", TEXTS, (), shown="NAME[:AXIS]", flag="--output",
           help="the values of the model that count, outputs or inner ones, such as boxes, or boxes:1 where "
           "the axis of its channels is known better",
           brief="An output that counts, or an inner value, with the axis of its channels. Repeatable."),
    Option("shapes", dict[str, list[int]], None, shown="NAME=1x3x224x224", typed=TEXTS, flag="--shape",
           help="sizes of inputs, such as { image = [1, 3, 224, 224] }",
           brief="Size of an input. Repeatable."),
    Option("sample_axis", dict[str, Any], None, shown="NAME=AXIS", typed=TEXTS,
           help="along which axis of an input's calibration arrays samples lie, such as { state = 1, rate = "
           "'constant' }; what is constant is the same for all",
           brief="Axis of an input's calibration samples, or constant where all share it. Repeatable."),
    Option("seed", int, 0, shown="N", least=0, help="of everything random"),
    Option("freeze_initializers", bool, False, help="whether initializers that are inputs too are constants",
           brief="Initializers that are also inputs are constants."),
    Option("metric", str, None, shown="NAME|MODULE:FUNCTION",
           help=f"a ready measure ({', '.join(NAMES)}), "
           "or your own, module:function: from a model's path to a number",
           brief=f"A measure of quality: {', '.join(NAMES)}, "
           "or your own function from a model's path to a number."),
    Option("confidence", float | str, CONFIDENCE, shown="PART|none", typed=str,
           help="that a quality holds for all inputs of the kind, by the worse end of its interval; none "
           "goes by the figure alone",
           brief="With which a quality has to hold for all inputs; none goes by the figure alone."),
    Option("memory", int, None, shown="BYTES", typed=str, recorded=False, described=False,
           help="for activations while fitting, such as 4G; more lies in files"),
    Option("force", bool, False, recorded=False,
           help="whether a network whose quality can't be measured, or is below the floor, is taken all the "
           "same",
           brief="Take a network whose quality can't be measured or is below the floor."),
    Option("floor", str, None, shown="KEY=VALUE|off", recorded=False,
           help="a quality without which no network is taken, such as agreement=0.8, or off; where nothing "
           "is said, half of the classes or 3 dB",
           brief="A quality without which no network is taken, or off."),
    Option("tune", str, None, shown="MINUTES|auto",
           help="fit all weights together behind the layers' fits, for so many minutes, auto or steps=N",
           brief="Fit all weights together behind the layers' fits: minutes, auto, or steps=N."),
    Option("require", TEXTS, (), shown="KEY<=VALUE", recorded=False,
           help="what the result has to keep, whatever it was made for, such as agreement>=0.98",
           brief="What the result has to keep, such as 'macs<=0.8' or 'agreement>=0.99'. Repeatable."),
)  # fmt: skip
"""The options of `graphopt.optimize`, in the order in which the report tells them."""

OTHERS = (
    Option("model", Path, ..., shown="MODEL", help="the ONNX model"),
    Option("reference", Path, ..., shown="REFERENCE", help="the original model"),
    Option("candidate", Path, ..., shown="CANDIDATE", help="the rewritten model"),
    Option("before", Path, ..., shown="A", help="the model as it was"),
    Option("after", Path, ..., shown="B", help="the model as it is"),
    Option("out", Path, None, shown="OUT", short="-o", help="the model to write"),
    Option("calibration", Path, None, shown="FILE|MODULE:FUNCTION",
           help="preprocessed inputs: .npz, .npy, a folder of them or of images, or a function of yours that "
           "returns or yields them, module:function"),
    Option("preprocess", str, None, shown="PRESET|FILE.toml",
           help="how images become inputs: a preset such as imagenet, or a TOML file",
           brief="How images become inputs, such as imagenet."),
    Option("budgets", list[float], SWEPT, shown="0.9,0.8,…", typed=str,
           help="parts of the MACs to make networks for"),
    Option("external_data", str, "auto", choices=("auto", "always", "never"),
           help="whether weights go to OUT.data"),
    Option("report", Path, None, shown="FILE.json", help="where the report is written as JSON",
           brief="Write the report."),
    Option("html", Path, None, shown="FILE.html", help="where the report is written as a page",
           brief="Write the report as a page."),
    Option("markdown", Path, None, shown="FILE.md", help="where its summary is written",
           brief="Write a summary of the report."),
    Option("junit", Path, None, shown="FILE.xml", help="where checks and gates are written as test results",
           brief="Write checks and gates as test results."),
    Option("threads", int, 1, shown="N", help="threads that one operator may use"),
    Option("repeat", int, 50, shown="N", help="pairs of runs"),
    Option("minutes", float, None, shown="N", help="how long to tune, about"),
    Option("steps", int, None, shown="N", least=1, help="by how many steps to tune"),
    Option("weights", TEXTS, (), shown="NAME_GLOB", flag="--weight",
           help="weights that may move, by patterns of their names",
           brief="Weights that may move. Repeatable."),
    Option("resume", Path, None, shown="FILE",
           help="a file in which the run is kept once a minute; where it is there, the run goes on from it",
           brief="Keep the run in a file, and go on from it where it is there."),
    Option("keep_best", bool, False, help="whether Ctrl-C ends tuning with the best network so far",
           brief="Ctrl-C ends tuning with the best network so far."),
    Option("provider", str, "CPUExecutionProvider", shown="NAME", help="onnxruntime's provider",
           brief="onnxruntime's provider."),
    Option("measure", bool, False, help="run the model, and show what time its operators take"),
    Option("dry_run", bool, False, help="plan and verify, and write no model"),
    Option("json", bool, False, help="print one JSON document and nothing else"),
    Option("quiet", bool, False, short="-q", help="show no progress: the result and errors alone"),
    Option("verbose", bool, False, help="show every layer, and every reason for what was not done"),
)  # fmt: skip
"""Whatever else more than one way of asking knows; what has no default is an argument."""

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

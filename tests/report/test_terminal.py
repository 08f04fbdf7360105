"""What a person meets at the terminal: help, colours, completion, and names that were mistyped."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import typer

from graphopt.cli.app import typer_app
from graphopt.report import glossary
from graphopt.report.results import Metric
from graphopt.rewrites import registry
from graphopt.types import Score
from models import classic
from tests.builders import classifier, conv_bn, model, node, samples, saved, weight
from tests.command import COMMAND, at_terminal, cli

COMMANDS = sorted(
    str(command.callback.__name__) for command in typer_app.registered_commands if command.callback
)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_the_command_takes(command: str) -> None:
    done = cli(command, "--help")
    shown = " ".join(done.out.split())
    assert done.code == 0 and "Example: graphopt " in shown
    line = shown.split("Example: ", 1)[1].split("Options:")[0].split("Arguments:")[0].split("Usage:")[0]
    words = shlex.split(line)
    assert words[:2] == ["graphopt", command]
    group = typer.main.get_command(typer_app)
    found = group.commands[command]  # type: ignore[attr-defined]
    found.make_context(command, words[2:])  # refuses unknown options


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("optimze", "m"), "optimize"),
        (("scan", "m", "--jsn"), "--json"),
        (("explain", "bottlenek"), "did you mean bottleneck?"),
        (("explain", "nope"), "'nope' is no rewrite and no word of the glossary; graphopt rewrites lists"),
        (("explain", "sqnl"), "did you mean sqnr?"),
    ],
)
def test_a_mistyped_name_suggests_the_right_one(arguments: tuple[str, ...], meant: str) -> None:
    cli(*arguments).refused(meant)


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        (("--only", "colapse"), "did you mean collapse?"),
        (("--skip", "fold_afine"), "did you mean fold_affine?"),
        (("--budget", "mac=0.5"), "did you mean macs?"),
        (("--set", "bottleneck.rank_inn=4"), "did you mean rank_in?"),
    ],
)
def test_a_mistyped_value_suggests_the_right_one(scores: Path, options: tuple[str, ...], meant: str) -> None:
    cli("optimize", scores, "--dry-run", *options).refused(meant)


def completed(*words: str) -> list[str]:
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    environment = {**os.environ, "_GRAPHOPT_COMPLETE": "complete_bash", **asked}
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.split()


def test_completion() -> None:
    assert "optimize" in completed("graphopt", "opt")
    assert completed("graphopt", "explain", "bott") == ["bottleneck"]
    assert completed("graphopt", "explain", "sq") == ["sqnr"]
    every = completed("graphopt", "explain", "")
    assert every and set(every) <= {*registry.registry(), *glossary.WORDS}
    started = completed("graphopt", "optimize", "m", "--skip", "fold_pad,fold_p")
    assert started == ["fold_pad,fold_permutation"]
    assert completed("graphopt", "optimize", "m", "--budget", "mac") == ["macs="]
    assert completed("graphopt", "verify", "a", "b", "--preprocess", "imagenet-") == ["imagenet-caffe"]


def test_colours_only_at_a_terminal_and_not_when_they_are_off(scores: Path) -> None:
    """Bold is no colour; NO_COLOR asks for no colours."""
    run = ("optimize", scores, "--dry-run", "--budget", "macs=0.8")
    coloured = "\x1b[1;33m"
    assert coloured in at_terminal(*run, stream="stdout").out
    assert coloured not in at_terminal(*run, NO_COLOR="1", stream="stdout").out
    assert "\x1b[3" not in at_terminal(*run, NO_COLOR="1", stream="stdout").out
    assert "\x1b" not in cli(*run).out


@pytest.mark.parametrize(
    ("rewrite", "choice", "shown"),
    [
        ("lossless_bottleneck", {"rank_in": 16, "rank_out": 0}, "1x1 16/–"),
        ("lossless_separable", {"first": "0", "rank": 3}, "split 3"),
        ("lossless_depthwise", {"pointwise": "last", "multiplier": 2}, "depthwise ×2"),
        ("block_diagonal", {"way": 0, "parts": 4, "gathers": 1}, "4 blocks"),
        ("merge_siblings", {"followers": 0}, ""),
        ("merge_siblings", {"followers": 1}, "with the one behind each"),
        ("merge_siblings", {"followers": 2}, "with the 2 operators behind each"),
    ],
)
def test_a_choice_is_shown_in_words(rewrite: str, choice: dict[str, int | str], shown: str) -> None:
    assert registry.registry()[rewrite].describe(choice) == shown


def test_one_is_no_plural(folded: Path, tmp_path: Path) -> None:
    proto = conv_bn()
    proto.graph.node[2].op_type = "Sigmoid"
    assert "1 layer is the same" in cli("diff", folded, saved(proto, tmp_path / "other.onnx")).out
    relu = saved(model([node("Relu", "x", "y", "r")]), tmp_path / "relu.onnx")
    lines = cli("scan", relu).out.splitlines()
    assert lines[:2] == [
        "no convolution, Gemm or MatMul",
        "0 MACs (0 FLOPs), 0 parameters, 0 B of weights, 1 operator",
    ]


@pytest.mark.parametrize("given", [4, 8])
def test_held_out_inputs_are_counted_in_words(given: int, scores: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "few.npy", samples(given))
    asked = ("--calibration", tmp_path / "few.npy", "--budget", "macs=0.9", "--floor", "off")
    done = cli("optimize", scores, "--dry-run", "--markdown", tmp_path / "few.md", *asked).fine()
    inputs = "1 held-out input" if given == 4 else "2 held-out inputs"
    text = " ".join(done.out.split())
    assert f"quality on {inputs} (1 in 4" in text and f"all together, on {inputs})" in text
    assert ("1 input is few: " if given == 4 else "2 inputs are few: ") in text
    assert f"SQNR on {inputs} |" in (tmp_path / "few.md").read_text("utf-8")
    done = cli("optimize", scores, "--dry-run", *asked[:2], "--budget", "agreement=0.9")
    done.refused(f"were {'the one held-out input' if given == 4 else 'all 2 held-out inputs'} right, ")


def test_an_interval_that_has_no_end_is_not_shown() -> None:
    spans = {"psnr": (-math.inf, math.inf), "ssim": (0.25, 1.0)}
    after = Score(30.0, {"psnr": 30.0, "ssim": 0.5}, spans, 1)
    shown = Metric("image", Score(120.0, {"psnr": 120.0, "ssim": 1.0}), after, "original").shown
    assert shown == [("image psnr", "", "30", ""), ("image ssim", "", "0.5", " (0.25 to 1)")]


def test_the_list_of_commands_is_not_cut() -> None:
    assert "..." not in cli("--help").out.split("Commands:")[1]


def test_a_table_on_a_narrow_terminal_says_what_it_says_on_a_wide_one(tmp_path: Path) -> None:
    path = saved(classifier(prefix="a/rather/long/name/"), tmp_path / "m.onnx")
    narrow, wide = (at_terminal("scan", path, stream="stdout", COLUMNS=each).out for each in ("30", "80"))
    assert "Gemm" in wide and narrow.split("Gemm")[0] == wide.split("Gemm")[0]


def test_a_file_has_whole_names_and_no_blanks_at_the_ends(tmp_path: Path) -> None:
    prefix = "model/backbone/a/long/way/down/to/the/operator/that/does/it/in/the/end/of/the/branch/"
    path = saved(classifier(prefix=prefix), tmp_path / "m.onnx")
    name = f"{prefix}conv"
    assert name not in at_terminal("scan", path, stream="stdout").out
    for command in (("scan", path), ("optimize", path, "--dry-run", "--budget", "macs=0.6")):
        lines = cli(*command).out.splitlines()
        assert any(line.split(" ")[0].startswith(name) for line in lines)
        assert lines == [line.rstrip() for line in lines]


def test_names_between_colons_are_no_emoji(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "heart", ":heart:", pads=[1, 1, 1, 1]), node("Relu", "heart", "y", "relu")]
    proto = model(nodes, {"w": weight(8, 8, 3, 3)})
    for arguments in (("optimize", "--dry-run"), ("scan",)):
        shown = cli(*arguments, saved(proto, tmp_path / "m.onnx")).fine().out
        assert ":heart:" in shown and "\N{HEAVY BLACK HEART}" not in shown


def test_a_file_has_whole_names_of_rewrites(tmp_path: Path) -> None:
    proto = classic.build()
    proto.graph.node[0].name = "backbone/a_name_of/some_length/conv"
    assert "lossless_bottleneck," in cli("scan", saved(proto, tmp_path / "m.onnx")).fine().out


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("SQNR", "in decibels"),
        ("dB", "in decibels"),
        ("1x1 24/–", "Channels between the factors"),
        ("depthwise ×4", "four kernels a channel"),
        ("1x1 → depthwise 32 → 1x1", "a kernel of its own"),
        ("aim", "`macs` takes all"),
        ("declined", "was not taken"),
        ("predicted", "before it was fitted"),
    ],
)
def test_words_of_reports_are_explained(word: str, says: str) -> None:
    assert says in cli("explain", word).fine().out


def test_a_rewrite_goes_before_a_word() -> None:
    assert not set(glossary.WORDS) & set(registry.registry())
    assert set(glossary.ALIKE.values()) | set(glossary.FORMS.values()) <= set(glossary.WORDS)

"""The headline of a run, the rows and reasons that are folded, and what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

import graphopt
from graphopt.report.headline import headline
from graphopt.report.text.optimize import MOST_LAYERS, MOST_REASONS
from tests.builders import Net, classifier, conv_bn, saved
from tests.command import cli


def test_of_exact_rewrites_what_fell_and_that_it_is_verified() -> None:
    """The MACs are the same; of the others the operators changed the most."""
    report = graphopt.optimize(conv_bn()).report
    part = 1 - report.after.nodes / report.before.nodes
    assert (
        report.after.params < report.before.params and 1 - report.after.params / report.before.params < part
    )
    assert headline(report) == f"operators −{100 * part:.3g} % · verified"


@pytest.mark.parametrize("required", [[], ["agreement>=0.1"]], ids=["sqnr", "agreement"])
def test_of_approximate_ones_time_macs_and_what_was_measured(
    scores: Path, inputs: Path, required: list[str]
) -> None:
    report = graphopt.optimize(
        scores, budget={"macs": 0.6}, calibration=inputs, require=required, confidence=0, force=True
    ).report
    assert report.latency is not None and report.quality is not None
    faster, macs, agrees = headline(report).split(" · ")
    assert faster in (report.latency.outcome, f"{report.latency.speedup:.2f} times as fast")
    assert report.after.macs and report.before.macs
    assert macs == f"MACs −{100 * (1 - report.after.macs / report.before.macs):.3g} %"
    agreed = report.quality.agreement
    assert (agreed is None) == (not required) and "verified" not in agrees
    told = f"SQNR {report.quality.sqnr:.1f} dB" if agreed is None else f"agrees on {agreed:.1%}"
    assert agrees.startswith(told)


def test_an_error_that_nobody_measured_is_none_that_was(scores: Path) -> None:
    report = graphopt.optimize(scores, budget={"macs": 0.6}, force=True).report
    assert headline(report).endswith(" · the error is unmeasured")


def test_the_command_says_it_first_and_whether_a_model_was_written(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path / "model.onnx")
    first = cli("optimize", path, "-o", tmp_path / "out.onnx").fine().out.splitlines()[0]
    assert first.startswith("operators −") and first.endswith(" · verified · written")
    assert cli("optimize", path, "--dry-run").fine().out.splitlines()[0] == first.replace(
        "written", "not written"
    )
    again = cli("optimize", tmp_path / "out.onnx", "--dry-run").fine().out
    assert again.splitlines()[0] == "nothing to do: the model is as it was"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More layers than a report shows, each of which may be cut."""
    net = Net()
    value = net.input(["n", 16, 6, 6])
    for _ in range(MOST_LAYERS + 2):
        value = net.op("Relu", net.conv(value, 16, pads=[1, 1, 1, 1]))
    return saved(net.model(value), tmp_path_factory.mktemp("deep") / "deep.onnx")


def test_ten_layers_are_shown_and_all_with_verbose(deep: Path) -> None:
    asked = ("optimize", deep, "--dry-run", "--budget", "macs=0.5", "--only", "bottleneck", "--force")
    short, long = cli(*asked).fine().out, cli(*asked, "--verbose").fine().out
    rows = [sum("  1x1 " in line for line in text.splitlines()) for text in (short, long)]
    assert rows == [MOST_LAYERS, MOST_LAYERS + 2] and "2 more that save less: --verbose" in short
    assert "more that save less" not in long


def test_reasons_that_are_no_news_are_told_with_verbose(tmp_path: Path) -> None:
    path = saved(classifier(), tmp_path / "model.onnx")
    asked = ("optimize", path, "--dry-run", "--budget", "macs=0.6", "--force")
    assert "rejected: " not in cli(*asked).fine().out and "rejected: " in cli(*asked, "--verbose").fine().out


def test_of_many_reasons_some_are_shown_and_what_shows_all(deep: Path) -> None:
    asked = ("optimize", deep, "--dry-run", "--only", "lossless_bottleneck")
    short, long = cli(*asked).fine().out, cli(*asked, "--verbose").fine().out
    assert f"\n  {MOST_LAYERS + 2 - MOST_REASONS} more: --verbose\n" in short
    assert short.count("\n  lossless_bottleneck: ") == MOST_REASONS
    assert long.count("\n  lossless_bottleneck: ") == MOST_LAYERS + 2 and "--verbose" not in long


def test_the_next_step(scores: Path, inputs: Path, tmp_path: Path) -> None:
    def last(*asked: object) -> str:
        return cli("optimize", *asked).fine().out.splitlines()[-1]

    exact, cut = tmp_path / "exact.onnx", tmp_path / "cut.onnx"
    assert last(scores, "-o", exact) == f"next: graphopt bench {scores} {exact} measures the latency"
    further = "next: --budget macs=0.7 --calibration FILE goes further than exact rewrites"
    assert last(exact, "--dry-run") == further
    fitted = last(scores, "-o", cut, "--budget", "macs=0.6", "--calibration", inputs, "--force")
    assert fitted.startswith(f"next: graphopt tune {scores} {cut} --calibration FILE")

"""Ready measures of models: named by the user, in reports, as keys of budgets and gates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt.calibration import inputs as calibration_inputs
from graphopt.measures.tasks import NAMES
from graphopt.model import io
from graphopt.verification.metrics.task import Scorer, TaskMetric
from tests.builders import Net, classifier, samples, saved
from tests.command import cli
from tests.places import MODELS

RESNET = MODELS / "resnet-digits.onnx"
QUICK = ["bottleneck"]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    with np.load(MODELS / "digits-test.npz") as test:
        return np.asarray(test["input"][:96])


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    with np.load(MODELS / "digits-test.npz") as test:
        return np.asarray(test[next(name for name in test.files if name != "input")][:96])


def test_figures_of_a_cheaper_network_are_reported_and_judged() -> None:
    asked = {"only": QUICK, "metric": "classification", "require": ["top1>=0.25"]}
    report = graphopt.optimize(classifier(), {"macs": 0.9, "top1": 0.5}, samples(32), **asked).report
    assert report.metric is not None and report.quality is not None
    top1 = report.metric.figures["top1"]
    assert top1["before"] == 1.0 and top1["after"] == report.metric.after == report.quality.agreement
    judged = [(item.gate.key, item.measured) for item in (*report.budget[1:], *report.gates)]
    assert judged == [("top1", top1["after"])] * 2
    assert report.options["budget"] == {"macs": 0.9, "top1": 0.5}


def test_a_figure_alone_asks_for_the_fewest_macs_that_keep_it() -> None:
    asked = {"only": QUICK, "metric": "classification"}
    report = graphopt.optimize(classifier(), {"top1": 1.0}, samples(16), confidence=0, **asked).report
    assert report.after.macs is not None and report.before.macs is not None
    assert report.after.macs < report.before.macs and report.budget[0].measured == 1.0


def test_against_labels_the_report_has_both(images: np.ndarray, labels: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", labels)
    np.savez(tmp_path / "inputs.npz", input=images)
    metric = f"classification:labels={tmp_path / 'labels.npy'}"
    ran = cli(
        *("optimize", RESNET, "--dry-run", "--metric", metric, "--calibration", tmp_path / "inputs.npz"),
        *("--report", tmp_path / "r.json", "--markdown", tmp_path / "r.md", "--junit", tmp_path / "r.xml"),
    )
    assert ran.code == 0 and re.search(r"top1: 0\.9\d* → 0\.9\d*|top1: 1 → 1", " ".join(ran.out.split()))
    told = json.loads((tmp_path / "r.json").read_text())["metric"]
    assert told["against"] == "labels" and set(told["figures"]) == {"top1", "top5"}
    assert told["figures"]["top1"]["before"] == told["before"] > 0.9
    assert "top5" in (tmp_path / "r.md").read_text() and "top5" in (tmp_path / "r.xml").read_text()


def test_labels_follow_the_held_out_inputs(images: np.ndarray, labels: np.ndarray, tmp_path: Path) -> None:
    """Also where some inputs repeat others and are left out."""
    np.save(tmp_path / "labels.npy", np.concatenate([labels[:8], labels]))
    given = np.concatenate([images[:8], images])
    metric = f"classification:labels={tmp_path / 'labels.npy'}"
    found = graphopt.optimize(RESNET, calibration=given, metric=metric).report.metric
    assert found is not None and found.before > 0.9


def test_a_falling_figure_has_a_limit_from_above(tmp_path: Path) -> None:
    net = classifier()
    given = samples(32)
    asked = {"metric": "embedding:threshold=0.996", "calibration": given, "outputs": ["scores"]}
    report = graphopt.optimize(net, require=["false_accepts<=0.1", "cosine>=0.99"], **asked).report
    assert all(report.gates) and [str(item.gate) for item in report.gates] == [
        "false_accepts<=0.1",
        "cosine>=0.99",
    ]
    with pytest.raises(graphopt.InputError, match=r"false_accepts>=0\.1.*at most its limit"):
        graphopt.optimize(net, require=["false_accepts>=0.1"], **asked)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric", "accuracy"], "no such measure; there are classification"),
        (["--metric", "segmentation"], "expected scores [N, K, H, W]"),
        (["--metric", "detection"], "the model has scores float32[1, "),
        (["--budget", "top1=0.9"], "--budget top1: needs --metric classification"),
        (["--require", "psnr>=30"], "needs --metric image or --metric regression"),
        (["--metric", "classification", "--budget", "top1=97"], "did you mean top1=0.97?"),
        (
            ["--metric", "embedding", "--budget", "false_accepts=0.1"],
            "false_accepts needs threshold= or labels=",
        ),
        (["--metric", "classification:labels=none.npy"], "labels: none.npy: No such file"),
        (["--metric", "classification:labels=short.npy"], "labels: expected 24 entries"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_work(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("short.npy", np.zeros(3))
    np.save("inputs.npy", samples(24))
    model = saved(classifier(), tmp_path / "m.onnx")
    cli("optimize", model, "--dry-run", "--calibration", "inputs.npy", *options).refused(said)


def test_without_inputs_there_is_nothing_to_measure_on(tmp_path: Path) -> None:
    model = saved(classifier(), tmp_path / "m.onnx")
    cli("optimize", model, "--dry-run", "--metric", "classification").refused("give --calibration")


def test_too_few_inputs_are_refused() -> None:
    with pytest.raises(graphopt.InputError, match="1 held-out input is too few: it takes 3"):
        graphopt.optimize(classifier(), calibration=samples(6), metric="embedding", outputs=["scores"])


def test_help_names_every_measure() -> None:
    told = " ".join(cli("optimize", "--help").out.replace("│", " ").split())
    assert all(name in told for name in NAMES)


def test_a_fixed_batch_is_taken_apart() -> None:
    metric = TaskMetric("classification")
    found = []
    for batch in ("N", 4):
        model = io.load(classifier(batch)).model
        calibration = calibration_inputs.whole(samples(8), model)
        scorer = Scorer(metric, model, calibration)
        other = io.load(classifier(batch)).model
        found.append(scorer(other))
    assert found[0].figures == found[1].figures == {"top1": 1.0}


def test_a_recipe_finds_the_labels_beside_it(images: np.ndarray, labels: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", labels)
    np.savez(tmp_path / "inputs.npz", input=images)
    (tmp_path / "recipe.toml").write_text(
        f'[[models]]\nmodel = "{RESNET}"\nout = "out.onnx"\ncalibration = "inputs.npz"\n'
        'metric = "classification:labels=labels.npy"\nrequire = ["top1>=0.9"]\n'
    )
    assert cli("run", tmp_path / "recipe.toml").code == 0
    text = (tmp_path / "recipe.toml").read_text()
    (tmp_path / "recipe.toml").write_text(text.replace("out.onnx", "labels.npy"))
    cli("run", tmp_path / "recipe.toml").refused("labels.npy")


def test_sweep_shows_the_headline() -> None:
    points = graphopt.sweep(classifier(), samples(16), [0.8], only=QUICK, metric="classification").points
    assert all(point.metric is not None for point in points)


def test_an_image_network_is_measured_by_what_it_draws() -> None:
    net = Net()
    y = net.conv(net.input([1, 3, 16, 16]), 3, pads=[1, 1, 1, 1])
    given = samples(8, 3, 16, 16)
    report = graphopt.optimize(net.model(y), calibration=given, metric="image", require=["psnr>=60"]).report
    assert report.metric is not None and set(report.metric.figures) == {"psnr", "ssim"}

"""sensitivity(): the layers that the quality hangs on, against networks in which one layer is cut."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import graphopt
from graphopt import InputError
from graphopt.report.results import Sensitivities
from tests.builders import classifier, conv_bn, samples, saved
from tests.command import cli
from tests.places import MODELS

RESNET, INPUTS = MODELS / "resnet-digits.onnx", MODELS / "digits-calibration.npz"


@pytest.fixture(scope="module")
def ranked() -> Sensitivities:
    return graphopt.sensitivity(RESNET, INPUTS, only=["bottleneck"])


def test_that_which_costs_the_most_comes_first(ranked: Sensitivities) -> None:
    costs = [layer.cost for layer in ranked.layers]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == len(costs)
    named = {layer.linear.name for layer in ranked.layers}
    assert len(named) == len(costs) and named <= {row.linear.name for row in graphopt.scan(RESNET).rows}


def test_damage_never_falls_with_the_error(ranked: Sensitivities) -> None:
    for layer in ranked.layers:
        errors, damages = zip(*layer.probes, strict=True)
        assert list(errors) == sorted(errors) and list(damages) == sorted(damages)


def test_what_halving_a_layer_costs_is_what_it_then_costs(ranked: Sensitivities) -> None:
    """Four of the 3x3 layers, each cut alone: what was said orders them, and none is worse than it said.

    A network's fit is refined after its layers are, so that each may be better.
    """
    kept = [each for each in ranked.layers if each.halved is not None and each.linear.kernel == (3, 3)]
    said, found = [], []
    for layer in (kept[0], kept[len(kept) // 3], kept[2 * len(kept) // 3], kept[-1]):
        assert layer.halved is not None
        candidate = layer.halved.candidate
        assert candidate.macs_before and candidate.macs_after
        assert candidate.macs_after <= candidate.macs_before / 2
        report = graphopt.optimize(
            RESNET,
            calibration=INPUTS,
            only=["bottleneck"],
            at=[layer.linear.name],
            options={f"bottleneck.{key}": rank for key, rank in candidate.choice.items() if rank},
            force=True,
        ).report
        assert len(report.approximate) == 1 and report.quality is not None
        said.append(-10 * math.log10(layer.halved.damage))
        found.append(report.quality.sqnr)
    assert np.corrcoef(said, found)[0, 1] > 0.95
    assert all(after > before - 2 for before, after in zip(said, found, strict=True))


def test_the_document_says_the_same_and_the_same_each_time() -> None:
    asked = ("sensitivity", RESNET, "--calibration", INPUTS, "--only", "bottleneck", "--json", "-q")
    first, second = (json.loads(cli(*asked).fine().out) for _ in range(2))
    assert first.pop("seconds").keys() == second.pop("seconds").keys()
    assert first == second
    layer = first["layers"][0]
    assert layer["damage"] > 0 and layer["probes"] and layer["halved"]["candidate"]["rewrite"] == "bottleneck"
    assert layer["macs"] and 0 < layer["share"] < 1 and first["error"] == 0.01


def test_the_table_fits_a_terminal(scores: Path, inputs: Path) -> None:
    done = cli("sensitivity", scores, "--calibration", inputs, "--at", "conv2", "--only", "bottleneck").fine()
    lines = done.out.splitlines()
    assert lines[0].split()[:3] == ["layer", "kind", "MACs"] and lines[1].startswith("conv2 ")
    assert len(lines) >= 3 and max(map(len, lines)) <= 80 and "conv1" not in done.out


def test_a_model_without_layers_to_cut(tmp_path: Path) -> None:
    path = saved(conv_bn(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(8, 8, 8, 8)).astype(np.float32))
    done = cli("sensitivity", path, "--calibration", tmp_path / "x.npy", "--keep", "*")
    assert "no layer could be made cheaper" in done.fine().out


def test_without_inputs_or_with_useless_ones_it_is_refused(scores: Path) -> None:
    cli("sensitivity", scores).refused("sensitivity is measured on inputs: give --calibration")
    with pytest.raises(InputError, match="give inputs as the network gets them in use"):
        graphopt.sensitivity(classifier(), np.zeros((8, *samples(1).shape[1:]), np.float32))


@pytest.mark.parametrize("function", [graphopt.sensitivity, graphopt.sweep], ids=lambda each: each.__name__)
def test_patterns_that_match_nothing_are_refused(function: Callable[..., object]) -> None:
    with pytest.raises(InputError, match=r"^at=.*conw2.*: no node has such a name; did you mean .*conv2"):
        function(classifier(), samples(16), at=["conw2"])

"""Where outputs are class scores: by operators, by labels, or since somebody says so; and where none is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import graphopt
from graphopt.calibration import inputs as calibration_inputs
from graphopt.model import io
from graphopt.types import Quality
from graphopt.verification import quality
from tests.builders import Array, classifier, info, model, parsed, samples, weight

INPUTS = samples(24, 4, 8, 8, seed=3)
ROWS = ("c = Conv (x, w)", "p = GlobalAveragePool (c)", "f = Flatten (p)")


def network(
    *lines: str,
    made: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
    **options: Any,
) -> onnx.ModelProto:
    """A layer, and the operators of the text behind its rows of six numbers, ``f``."""
    outputs = options.pop("outputs", {"y": ["n", 6], **(made or {})})
    given: dict[str, Array] = {
        "w": weight(6, 4, 1, 1),
        "w2": weight(6, 4, 1, 1, seed=2),
        "t": np.float32(0.5),
        "w6": weight(6, 6, seed=3),
        "shape": np.array([0, -1, 1, 1]),
    }
    nodes = parsed(*ROWS, *lines)
    read = {name for each in nodes for name in each.input}
    kept = {name: array for name, array in given.items() if name in read}
    proto = model(nodes, kept, inputs={"x": ["n", 4, 8, 8]}, outputs=outputs, **options)
    helper.set_model_props(proto, dict(metadata or {}))
    return proto


def measured(proto: onnx.ModelProto, *outputs: str, scores: bool = False) -> Quality:
    """What is told of a network that is compared with itself."""
    found = io.load(proto).model
    given = calibration_inputs.whole(INPUTS, found)
    return quality.measure(found, found, given, given.held_out, outputs, scores=scores)


LOGITS = "y = MatMul (f, w6)"
BY_OPERATORS = {
    "Softmax": ["y = Softmax (f)"],
    "LogSoftmax": ["y = LogSoftmax (f)"],
    "another form of it": ["s = Softmax <axis=1> (p)", "y = Flatten (s)"],
    "another type": ["h = Cast <to=10> (f)", "s = Softmax (h)", "y = Cast <to=1> (s)"],
    "its logarithm": ["s = Softmax (f)", "y = Log (s)"],
    "the mean of two": [
        "s = Softmax (f)",
        "d = Conv (x, w2)",
        "q = GlobalAveragePool (d)",
        "g = Flatten (q)",
        "r = Softmax (g)",
        "a = Add (s, r)",
        "y = Mul (a, t)",
    ],
}


@pytest.mark.parametrize("name", BY_OPERATORS)
def test_probabilities_are_class_scores(name: str) -> None:
    found = measured(network(*BY_OPERATORS[name]))
    assert found.agreement == 1.0 and not found.taken and not found.untold


BESIDE = {
    "probabilities": ("s = Softmax (y)", "s", ["n", 6], np.float32),
    "probabilities at a temperature": ("d = Div (y, t)\ns = Softmax (d)", "s", ["n", 6], np.float32),
    "the best": ("i = ArgMax <axis=1, keepdims=0> (y)", "i", ["n"], np.int64),
    "the best of another form": (
        "v = Unsqueeze (y, two)\ni = ArgMax <axis=1, keepdims=0> (v)",
        "i",
        ["n", 1],
        np.int64,
    ),
}


@pytest.mark.parametrize("counted", [(), ("y",)])
@pytest.mark.parametrize("name", BESIDE)
def test_what_probabilities_are_made_of_are_class_scores(name: str, counted: tuple[str, ...]) -> None:
    """Also where only they count."""
    lines, other, shape, kind = BESIDE[name]
    outputs = [info("y", ["n", 6]), info(other, shape, kind)]
    proto = network(LOGITS, *lines.split("\n"), outputs=outputs)
    if "two" in lines:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "two"))
    assert measured(proto, *counted).agreement == 1.0


@pytest.mark.parametrize(
    "text", ["{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e', 5: 'f'}", json.dumps([*"abcdef"]), "a,b,c,d,e,f",
             "a\nb\nc\nd\ne\nf\n"]
)  # fmt: skip
@pytest.mark.parametrize("key", ["names", "classes", "labels"])
def test_as_many_labels_as_numbers_make_class_scores(key: str, text: str) -> None:
    assert measured(network(LOGITS, metadata={key: text})).agreement == 1.0


NOT_TOLD = {
    "a layer": ([LOGITS], {}),
    "other labels": ([LOGITS], {"names": "a,b,c"}),
    "a number": ([LOGITS], {"classes": "6"}),
    "a Sigmoid": (["y = Sigmoid (f)"], {}),
    "a part of the inputs": (["y = Softmax <axis=0> (f)"], {}),
    "attention": (["s = Softmax (f)", "y = Mul (f, s)"], {}),
    "a sum": (["s = Softmax (f)", "y = Add (f, s)"], {}),
}


@pytest.mark.parametrize("name", NOT_TOLD)
def test_other_rows_of_numbers_are_class_scores_where_somebody_says_so(name: str) -> None:
    lines, metadata = NOT_TOLD[name]
    proto = network(*lines, metadata=metadata)
    found, asked = measured(proto), measured(proto, scores=True)
    assert found.agreement is None and found.untold == ("y",)
    assert any('"metric" classification' in note for note in found.notes)
    alike = name == "a part of the inputs"  # all of which are most of the same
    assert (asked.agreement, asked.taken) == ((None, ()) if alike else (1.0, ("y",))) and not asked.untold
    assert any(("same class" if alike else "taken as class scores") in note for note in asked.notes)


def test_what_the_model_tells_goes_before_what_shapes_do() -> None:
    """An embedding beside the classes is none of them, whoever asks."""
    proto = network("y = Softmax (f)", "e = MatMul (f, w6)", made={"e": ["n", 6]})
    found = measured(proto, scores=True)
    assert found.agreement == 1.0 and not found.taken and not found.untold
    assert measured(proto, "e").untold == ("e",) and measured(proto, "e", scores=True).taken == ("e",)


@pytest.mark.parametrize("scores", [False, True])
def test_a_map_is_no_row_of_scores(scores: bool) -> None:
    proto = network("y = Softmax <axis=1> (c)", outputs={"y": ["n", 6, 8, 8]})
    found = measured(proto, scores=scores)
    assert found.agreement is None and not found.taken and not found.untold


SAID: dict[str, dict[str, Any]] = {
    "budget": {"budget": {"macs": 0.7, "agreement": 0.1}},
    "gate": {"require": ["agreement>=0.1"]},
    "floor": {"floor": "agreement=0.1"},
    "measure": {"metric": "classification"},
}


@pytest.mark.parametrize("name", [None, *SAID])
def test_who_asks_for_an_agreement_says_that_outputs_are_class_scores(name: str | None) -> None:
    options: dict[str, Any] = {"budget": {"macs": 0.7}, "floor": "off", **(SAID[name] if name else {})}
    report = graphopt.optimize(classifier(), calibration=samples(24), only=["bottleneck"], **options).report
    assert report.quality is not None and (report.quality.agreement is None) == (name is None)
    assert sum("class scores" in note for note in report.notes) == 1


def test_the_floor_of_rows_that_nobody_calls_class_scores_is_in_decibels() -> None:
    """Though most of them have the same best."""
    options: dict[str, Any] = {"calibration": samples(64), "seed": 2}
    with pytest.raises(graphopt.BudgetError, match="below the floor: sqnr>=3"):
        graphopt.optimize(classifier(), {"macs": 0.4}, **options)
    assert graphopt.optimize(classifier(), {"macs": 0.4}, metric="classification", **options)

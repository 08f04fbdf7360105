"""What a rewrite does grows with the model, and no faster: a test that counts calls, not seconds."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import onnx_ir as ir
import pytest

from graphopt.analysis.snapshot import Analysis
from graphopt.types import Candidate
from tests.builders import Net
from tests.rewrites.test_contract import ALONE, EXAMPLES, configured

FEW, MANY = 6, 36
"""Copies of the example in the smaller and the larger model."""
BEYOND = 1.2
"""Times that the calls may grow faster than the model: sorting, and sets that are made anew as they grow."""


def copies(name: str, number: int) -> ir.Model:
    """A model of so many of a rewrite's examples, each with an input of its own."""
    net, example = Net(), EXAMPLES[name]
    outputs = []
    for place in range(number):
        x = net.input([1, example.channels, 9, 9], f"x{place}")
        outputs.append(example.add(net, x))
    return ir.from_proto(net.model(*outputs))


def calls(name: str, number: int) -> int:
    """How many functions are called to find the sites of a rewrite and to build them."""
    rewrite, analysis = configured(name), Analysis(copies(name, number))
    assert len(analysis.linears) >= 0 and analysis.totals is not None  # what all rewrites share is there
    seen = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal seen
        seen += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        found = [match for match in rewrite.match(analysis) if isinstance(match, Candidate)]
        for candidate in found if hasattr(rewrite, "build") else ():
            rewrite.build(analysis, candidate)
    finally:
        sys.setprofile(None)
    assert len(found) >= number
    return seen


@pytest.mark.parametrize("name", ALONE)
def test_no_more_is_done_than_the_model_grows(name: str) -> None:
    calls(name, 1)  # what is imported then is not counted
    few, many = calls(name, FEW), calls(name, MANY)
    assert many <= BEYOND * few * MANY / FEW, (few, many)

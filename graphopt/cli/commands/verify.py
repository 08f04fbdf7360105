"""``graphopt verify``."""

from __future__ import annotations

from graphopt.cli import common
from graphopt.cli.progress import shown
from graphopt.jobs.task import given_inputs


def verify(
    reference: common.Reference,
    candidate: common.Candidate,
    calibration: common.Calibration = None,
    preprocess: common.Preprocess = None,
    budget: common.Budget = None,
    output: common.Outputs = None,
    json: common.Json = False,
    quiet: common.Quiet = False,
    shape: common.Shapes = None,
    seed: common.Seed = 0,
) -> int:
    """Compare two models by running both.

    They have to be equal up to rounding, or as close as a quality budget asks.

    Example: graphopt verify model.onnx smaller.onnx --calibration inputs.npz --budget agreement=0.98
    """
    options = common.parse(budget, None, shape)
    from graphopt import api

    with shown(quiet=quiet, json=json):
        found = api.verify(
            reference,
            candidate,
            given_inputs(calibration, preprocess),
            budget=options["budget"],
            outputs=output or (),
            shapes=options["shapes"],
            seed=seed,
        )
    common.tell("verification", found, json=json)
    return 0 if found else 1

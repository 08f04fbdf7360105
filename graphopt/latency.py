"""Latency of two models in onnxruntime, interleaved, so that a busy machine slows both."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphopt import feeds, runtime
from graphopt.errors import InputError

WARM_UP = 3
"""Runs of each model before the clock counts."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Latency of two models.

    Attributes:
        reference_ms: median milliseconds of the reference.
        candidate_ms: median milliseconds of the candidate.
        speedup: reference / candidate, the median of paired ratios.
        spread: 10th and 90th percentile of those ratios.
        threads: threads that one operator may use.
        repeat: number of pairs.
        provider: onnxruntime's execution provider.
    """

    reference_ms: float
    candidate_ms: float
    speedup: float
    spread: tuple[float, float]
    threads: int
    repeat: int
    provider: str


def compare(
    reference: ir.Model,
    candidate: ir.Model,
    inputs: feeds.TestInputs,
    *,
    threads: int = 1,
    repeat: int = 50,
    provider: str = "CPUExecutionProvider",
) -> Timing:
    """Times both models on the same input, one run of each in turn, the first of a pair changing.

    Raises:
        InputError: onnxruntime can't load or run one of them, or does not have the provider.
    """
    import onnxruntime as ort

    if inputs.problem or not inputs.feeds:
        raise InputError(f"the reference can't be timed: {inputs.problem}")
    if provider not in ort.get_available_providers():
        raise InputError(f"no provider {provider}; there are {', '.join(ort.get_available_providers())}")
    sessions = [
        runtime.session(runtime.structure(model), optimised=True, threads=threads, provider=provider)
        for model in (reference, candidate)
    ]
    feed = inputs.feeds[0]
    for running in sessions * WARM_UP:
        runtime.run(running, feed)
    seconds = np.empty((repeat, 2))
    for pair in range(repeat):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            start = time.perf_counter()
            sessions[which].run(None, feed)
            seconds[pair, which] = time.perf_counter() - start
    ratios = seconds[:, 0] / seconds[:, 1]
    low, high = np.percentile(ratios, [10, 90])
    before, after = np.median(seconds, axis=0) * 1e3
    return Timing(
        float(before),
        float(after),
        float(np.median(ratios)),
        (float(low), float(high)),
        threads,
        repeat,
        provider,
    )

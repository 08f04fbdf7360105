"""Inputs for a model whose user gave none: seeded noise with the spectrum of natural images.

The statistics of what the layers read then come from the network itself, its biases and activations among
them, which tells a fit far more than to take all directions as alike. Where a BatchNormalization is still
in the graph, it tells how large the inputs were that the network was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.attributes import batch_statistics
from graphopt.analysis.constants import Constants, default_opset
from graphopt.calibration.inputs import BATCH, ONE_HELD_OUT_OF, Calibration, affordable
from graphopt.calibration.samples import Samples, rows
from graphopt.errors import InputError
from graphopt.runtime import session
from graphopt.runtime.exposure import exposed
from graphopt.runtime.session import Feeds

SYNTHETIC_INPUTS = 256
"""Inputs that are made, at most. Measured by benchmarks.thresholds: with 32, 64 and 256 a network kept 18.2,
19.5 and 20.2 dB."""
FEWEST = 32
"""And at least; measured by the same: with so many it lost 2 dB."""
SYNTHETIC_MACS = 2e12
"""Multiply-accumulates that one pass over them may take, about: derived, 35 seconds at
`time_model.DENSE_MACS_PER_SECOND`."""
SLOPE = 1.5
"""Of the amplitude over the frequency, 1/f^SLOPE. Measured by benchmarks.thresholds: with 0, 1, 1.5 and 2 a
network of digits kept 4.4, 14.8, 20.2 and 22.0 dB; a ResNet-20 of CIFAR-10 at 0.6 of its MACs kept 6.3 with
1.5 and 4.6 with 2."""
SHARED = 0.8
"""How much of a channel is common to all: colours of natural images go together. Derived: three channels then
correlate by 0.77; in CIFAR-10's test images red and blue do by 0.79, the others by 0.91."""


def inputs(
    model: ir.Model, sizes: Mapping[str, Sequence[int]], macs: int | None, seed: int
) -> Calibration | None:
    """Synthetic inputs, split; None where the model can't be run on them, or an input is empty.

    Args:
        model: the model as given, with what is left of its BatchNormalizations.
        sizes: the shape of every input for one run, by name.
        macs: of the model for one run; None where unknown.
        seed: of the noise.

    Returns:
        Inputs of the scale that the first BatchNormalization expects, a quarter of them held out, or None.
    """
    if any(0 in shape for shape in sizes.values()):
        return None
    count = affordable(SYNTHETIC_MACS, macs, 1, FEWEST, SYNTHETIC_INPUTS)
    fed = [value for value in model.graph.inputs if value.name in sizes]
    batched = all(len(shape) > 1 and shape[0] == 1 for shape in sizes.values()) and _open_batch(model)
    if batched:
        once = {v.name or "": _noise(v, (count, *sizes[v.name or ""][1:]), seed) for v in fed}
        samples, size = rows(once), BATCH
    else:  # as the model takes it: the noise of several runs
        firsts = {shape[0] if len(shape) else None for shape in sizes.values()}
        size = firsts.pop() or 1 if len(firsts) == 1 else 1
        numbers = range(max(ONE_HELD_OUT_OF, count // size))
        runs = [{v.name or "": _noise(v, sizes[v.name or ""], seed + i) for v in fed} for i in numbers]
        apart = Samples(tuple(runs), None)
        samples = apart if size == 1 else rows({n: np.concatenate(apart.arrays(n)) for n in runs[0]})
    try:
        scale = expected_scale(model, samples[:size].joined())
    except InputError:
        return None
    samples = Samples(tuple(map(partial(_scaled, scale=scale), samples.feeds)), samples.axes)
    total = len(samples)
    held = total // ONE_HELD_OUT_OF if batched else max(total // ONE_HELD_OUT_OF // size, 1) * size
    return Calibration(samples[held:], samples[:held], size, not batched)


def _scaled(feed: Feeds, scale: float) -> Feeds:
    return {n: (a * scale).astype(a.dtype) if a.dtype.kind == "f" else a for n, a in feed.items()}


def _open_batch(model: ir.Model) -> bool:
    """Whether every input leaves its first axis open."""
    fed = [v for v in model.graph.inputs if not v.is_initializer() and v.shape is not None]
    return all(len(v.shape) and not isinstance(v.shape[0], int) for v in fed if v.shape is not None)


def _noise(value: ir.Value, shape: Sequence[int], seed: int) -> npt.NDArray[Any]:
    """Noise of an input's type; of maps [N, C, H, W] with 1/f amplitudes and channels that go together."""
    rng = np.random.default_rng(seed)
    kind = None if value.dtype is None else np.dtype(value.dtype.numpy())
    if len(shape) != 4 or (kind is not None and kind.kind not in "fV"):
        return session.random_array(rng, tuple(shape), value.dtype)
    plain = rng.standard_normal(tuple(shape))
    rows, columns = (np.fft.fftfreq(size) for size in shape[2:])
    frequency = np.hypot(rows[:, None], columns[None, :])
    frequency[0, 0] = 1 / max(shape[2:])
    smooth = np.fft.ifft2(np.fft.fft2(plain) / frequency**SLOPE).real
    common = smooth.mean(axis=1, keepdims=True) * np.sqrt(shape[1])
    mixed = np.sqrt(1 - SHARED**2) * smooth + SHARED * common
    found: npt.NDArray[Any] = (mixed / mixed.std()).astype(np.float32 if kind is None else kind)
    return found


def expected_scale(model: ir.Model, feeds: Feeds) -> float:
    """What the noise is multiplied by: so that the first BatchNormalization sees what it expects, else 1.

    Raises:
        InputError: the model can't be run.
    """
    constants, opset = Constants(model), default_opset(model)
    normalising = (n for n in model.graph if n.op_type == "BatchNormalization" and len(n.inputs) > 4)
    node = next((n for n in normalising if not batch_statistics(n, opset)), None)
    value = None if node is None else node.inputs[0]
    expected = None if node is None else constants.array(node.inputs[4])
    names = [] if value is None or expected is None or value.name is None else [value.name]
    running = session.session(exposed(session.structure(model), names), optimised=True)
    results = session.run(running, feeds, names or None)
    if not names or expected is None or not results[0].size:
        return 1.0
    with np.errstate(all="ignore"):  # numbers that are none, or become none, scale nothing
        seen = np.moveaxis(results[0].astype(np.float64), 1, 0).reshape(len(expected), -1).var(axis=1)
        ratios = expected[seen > 0] / seen[seen > 0]
        found = float(np.sqrt(np.median(ratios))) if len(ratios) else 1.0
    return found if np.isfinite(found) and found > 0 else 1.0

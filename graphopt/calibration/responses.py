"""What a model makes of calibration inputs, and whether that looks as if they were preprocessed for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.operators import VIEWS
from graphopt.calibration.inputs import Calibration
from graphopt.calibration.samples import Samples
from graphopt.calibration.synthetic import expected_scale
from graphopt.errors import InputError
from graphopt.runtime import session
from graphopt.runtime.exposure import exposed
from graphopt.runtime.session import Feeds

FAR = 16.0
"""By so much inputs may be larger or smaller than the first BatchNormalization expects. Derived: pictures of
0 to 1 differ from standardised ones by 4 (a standard deviation of about 0.25), bytes by 64, and this is the
geometric mean."""
BYTES = 255.0
"""The largest value of a pixel. Derived: of 8 bits."""
ROUNDING = float(8 * np.finfo(np.float32).eps)
"""Part of a value by which it differs no more than it would by rounding: derived, three bits of float32, as
another order of a sum changes."""
BOUNDED = frozenset({"Softmax", "Sigmoid", "HardSigmoid"})
"""Operators whose outputs end at 0 and 1."""


def judged(
    model: ir.Model, calibration: Calibration, kept: Sequence[str], telling: Mapping[str, Sequence[str]]
) -> tuple[str, list[str]]:
    """Why nothing can be measured on inputs, by what the model makes of them, and what is doubtful.

    Args:
        model: the model.
        calibration: the inputs; as many of them are run as it takes to see each output change.
        kept: names of the outputs that count; all when empty.
        telling: by output that depends on what inputs hold, the values that are measured for it.

    Returns:
        The reason, "" where there is none, and the doubts.
    """
    arrays = calibration.held_out
    first = next(calibration.parts(arrays))
    feeds = first.joined()
    outputs = [v for v in model.graph.outputs if (not kept or v.name in kept)]
    names = [v.name or "" for v in outputs]
    try:
        running = session.session(session.structure(model), optimised=True)
        made = dict(zip(names, session.run(running, feeds, names), strict=True))
        scale = expected_scale(model, feeds)
        still = _still(model, calibration, [name for values in telling.values() for name in values])
    except InputError:
        return "", []
    floats = {n: a for n, a in made.items() if isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.size}
    lost = next((name for name, array in floats.items() if not np.isfinite(array).any()), None)
    if lost is not None:
        return f"the model makes nothing finite of them: output {lost!r} is NaN or infinite", []
    silent = [name for name, values in telling.items() if values and still.issuperset(values)]
    if silent and len(silent) == len(telling):
        return f"no output of the model changes with the inputs ({_ranges(arrays)})", []
    doubts = [f"output {name!r} is the same for all inputs ({_ranges(arrays)})" for name in silent]
    doubts += [
        f"on some inputs the model makes numbers that are not finite, in output {name!r} ({_ranges(arrays)})"
        for name, array in floats.items()
        if not np.isfinite(array).all()
    ]
    return "", [*doubts, *_doubts(model, outputs, floats, scale, arrays)]


def _still(model: ir.Model, calibration: Calibration, names: Sequence[str]) -> set[str]:
    """Those of a model's values that are the same for all inputs, each of which is run by itself.

    Raises:
        InputError: onnxruntime does not hand out one of the values.
    """
    if not names:
        return set()
    size = calibration.batch if calibration.fixed else 1
    running = session.session(exposed(session.structure(model), names), optimised=True)
    parts = (part for samples in (calibration.held_out, calibration.fit) for part in samples.cut(size))
    firsts: dict[str, Any] = {}
    left, runs = list(dict.fromkeys(names)), 0
    for part in parts:
        if len(part) < size:
            continue
        runs += 1
        made = dict(zip(left, session.run(running, part.joined(), left), strict=True))
        left = [name for name in left if _same(firsts.setdefault(name, made[name]), made[name])]
        if not left:
            break
    return set(left) if runs > 1 else set()


def _same(one: Any, other: Any) -> bool:
    """Whether a value is the same for two inputs, but for rounding; of floats whatever its size is."""
    if not isinstance(one, np.ndarray) or not isinstance(other, np.ndarray) or not one.size or not other.size:
        return False
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    if one.shape != other.shape:
        one, other = np.unique(one), np.unique(other)
    with np.errstate(all="ignore"):  # of numbers that are none
        return one.shape == other.shape and np.allclose(one, other, rtol=ROUNDING, atol=0.0, equal_nan=True)


def _ranges(samples: Samples) -> str:
    """What the inputs hold, in words."""
    found = []
    for name, kind in samples.kinds.items():
        filled = [array for array in samples.arrays(name) if array.size and kind.kind in "fiub"]
        if filled:
            low, high = (float(end) for end in (min(a.min() for a in filled), max(a.max() for a in filled)))
            found.append(f"{name!r} has {low:g} to {high:g}" if low < high else f"{name!r} is {low:g}")
    return ", ".join(found)


def _doubts(
    model: ir.Model, outputs: Sequence[ir.Value], made: Feeds, scale: float, samples: Samples
) -> Iterator[str]:
    asked = f"({_ranges(samples)}): are they preprocessed?"
    if not 1 / FAR <= scale <= FAR:
        by = f"{1 / scale:.3g} times larger" if scale < 1 else f"{scale:.3g} times smaller"
        yield f"the inputs look {by} than the first BatchNormalization expects {asked}"
        return
    for value in outputs:
        array = made.get(value.name or "")
        if array is not None and _ends_bounded(value) and np.isin(array, (0.0, 1.0)).all():
            yield f"output {value.name!r} is saturated, all of it 0 or 1, with these inputs {asked}"
            return
    for value in model.graph.inputs:
        held = samples.arrays(value.name or "") if value.name in samples.names else []
        readers = {usage.node.op_type for usage in value.uses()}
        if held and held[0].ndim > 2 and readers == {"Conv"} and _looks_like_bytes(held):
            largest = max(float(array.max()) for array in held)
            yield (
                f"input {value.name!r} holds whole numbers up to {largest:g}, as pixels that nothing was "
                "done to, and a convolution reads them as they are"
            )


def _looks_like_bytes(held: Sequence[npt.NDArray[Any]]) -> bool:
    """Whether numbers are whole, and of the range of bytes: some in its upper half, none beyond."""
    if held[0].dtype.kind != "f" or not all(array.size for array in held):
        return False
    if not BYTES / 2 < max(float(array.max()) for array in held) <= BYTES:
        return False
    return all(float(array.min()) >= 0 and bool((array == np.rint(array)).all()) for array in held)


def _ends_bounded(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in VIEWS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in BOUNDED

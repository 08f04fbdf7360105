"""Seeded random graphs around convolutions, aimed at the edges of every rewrite's conditions."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import onnx

from tests.builders import NEWEST_OPSET
from tests.fuzz.draft import NOMINAL, Draft
from tests.fuzz.operators import branched, joined, opaque
from tests.fuzz.patterns import OPERATORS, PATTERNS

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, NEWEST_OPSET)
"""Where the operators that rewrites know changed, and the newest one."""
DTYPES = ("float32",) * 18 + ("float16",) * 2 + ("float64",)
"""How often each float type is drawn; onnxruntime has no convolution in float64, MatMul it has."""
SYMBOLS = ("H", "W", "D")


@dataclass(frozen=True)
class Graph:
    """A random graph.

    Attributes:
        seed: what it was drawn by.
        patterns: the patterns that it holds.
        model: the model.
    """

    seed: int
    patterns: tuple[str, ...]
    model: onnx.ModelProto


def graph(seed: int) -> Graph | None:
    """The graph of a seed; None where too little of what was drawn runs in onnxruntime."""
    dice = random.Random(seed)
    draft = Draft(seed, dice.choice(OPSETS), dice.choice(DTYPES), dice.choice((None, None, None, 3, 8)))
    values = _inputs(draft, dice)
    found: list[str] = []
    wanted = dice.choice((1, 1, 2, 2, 3))
    for _ in range(4 * wanted):
        if len(found) == wanted:
            break
        name = dice.choice(tuple(PATTERNS))
        with draft.attempt():
            x = dice.choice(values[-3:])
            draft.need(draft.rank(x) > 1)
            step = PATTERNS[name]
            y = branched(draft, x, step) if dice.random() < 0.06 else step(draft, x)
            found.append(name)
            values.append(y)
        for _ in range(dice.choice((0, 0, 0, 1, 2))):
            with draft.attempt():
                values.append(dice.choice((*OPERATORS, opaque))(draft, dice.choice(values[-3:])))
        if dice.random() < 0.25:
            with draft.attempt():
                values.append(joined(draft, *dice.sample(values, 2)) if len(values) > 1 else values[0])
    if not found:
        return None
    return Graph(seed, tuple(found), draft.finished(_outputs(draft, values, dice)))


def _inputs(draft: Draft, dice: random.Random) -> list[str]:
    """Inputs, some of whose sizes are open: all, the batch alone, one axis, or none."""
    axes = dice.choice((1, 2, 2, 2, 2, 2, 3))
    batch, channels = dice.choice((1, 1, 2)), dice.choice((2, 3, 4, 4, 6, 8))
    sizes = [batch, channels, *(dice.randint(4, 9) for _ in range(axes))]
    if dice.random() < 0.5:
        sizes[2:] = [dice.choice((4, 6, 8))] * axes
    if dice.random() < 0.08:
        sizes[2:] = [dice.randint(1, 3) for _ in range(axes)]
    openness = dice.random()
    shape: list[int | str | None] = list(sizes)
    if openness < 0.7:
        shape[0] = "N"
    if openness < 0.5:
        shape[2:] = [*SYMBOLS[:axes]]
        if openness < 0.08:
            shape[dice.randint(2, axes + 1)] = sizes[-1]
            sizes[2:] = [sizes[-1]] * axes
    values = [draft.feed("x", shape, sizes)]
    if dice.random() < 0.2:
        values.append(draft.feed("z", shape, sizes))
    return values


def _outputs(draft: Draft, values: list[str], dice: random.Random) -> list[str]:
    """What nothing reads, and sometimes a value that is read too."""
    read = {name for node in draft.nodes for name in node.input}
    made = [name for node in draft.nodes for name in node.output]
    outputs = [name for name in made if name not in read and draft.arrays[name].dtype.kind == "f"]
    if dice.random() < 0.15 and len(values) > 1:
        outputs.append(dice.choice(values[1:]))
    outputs = [name for name in dict.fromkeys(outputs) if name in made]
    if not outputs:
        outputs = [name for name in made if draft.arrays[name].dtype.kind == "f"][-1:]
    return outputs[: 1 + (dice.random() < 0.7) * len(outputs)]


def sizes_of(model: onnx.ModelProto) -> list[str]:
    """The open sizes of a model's inputs, by name; "" stands for one without a name."""
    found: dict[str, None] = {}
    for value in model.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if not dim.HasField("dim_value"):
                found.setdefault(dim.dim_param)
    return list(found)


def feeds(model: onnx.ModelProto, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs of several sizes for a model: of 1, 2, 3, odd and large ones, the same for equal names.

    Args:
        model: the model.
        seed: of the numbers.

    Returns:
        One set of arrays by name for each choice of sizes.
    """
    dice = random.Random(seed)
    names = sizes_of(model)
    props = {entry.key: entry.value for entry in model.metadata_props}
    nominal = dict.fromkeys(names, 8)
    for part in props.get(NOMINAL, "").split():
        name, size = part.split("=")
        nominal[name] = int(size)
    choices = [nominal, *(dict.fromkeys(names, size) for size in (8, 1, 2, 3, 13))]
    choices += [{name: dice.choice((1, 2, 3, 4, 5, 6, 7, 9, 11, 16, 20)) for name in names} for _ in range(3)]
    for each in choices[1:]:
        if "N" in each:
            each["N"] = dice.choice((1, 1, 2, 3))
    return [_feed(model, each, seed + i) for i, each in enumerate(choices if names else choices[:2])]


def _feed(model: onnx.ModelProto, sizes: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    random_numbers = np.random.default_rng(seed)
    weights = {tensor.name for tensor in model.graph.initializer}
    made: dict[str, np.ndarray] = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = [d.dim_value if d.HasField("dim_value") else sizes[d.dim_param] for d in kind.shape.dim]
        if dtype.kind == "f":
            scale, shift = random_numbers.choice((1.0, 1.0, 3.0)), random_numbers.choice((0.0, 0.0, 1.5))
            made[value.name] = np.asarray(random_numbers.standard_normal(shape) * scale + shift, dtype)
        elif dtype.kind == "b":
            made[value.name] = np.asarray(random_numbers.random(shape) < 0.5)
        else:
            made[value.name] = np.asarray(random_numbers.integers(0, 3, shape), dtype)
    return made

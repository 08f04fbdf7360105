"""Build benchmark models whose weights are real data in the file.

The `onnx` wheel ships well-known architectures with their large weights replaced by
`ConstantOfShape` nodes. `materialise` puts seeded random weights in their place, so that
size, load time and constant folding are those of a trained model. `chain` and `wide` make
models of any depth or size. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

ARCHITECTURES = ("resnet50", "vgg19", "densenet121", "inception_v1")
DEFAULT_FOLDER = Path(__file__).parent / ".cache"

GAINS = {
    ("Conv", None): 0.05,
    ("Gemm", "Softmax"): 0.05,
    ("BatchNormalization", "Sum"): 0.5,
}
"""Factor on the weight of an operator, by the operator that reads its result (None: a graph output).

Without it, residual sums grow with depth and the probabilities saturate, which would hide any error.
"""

_VIEWS = ("Reshape", "Unsqueeze")
_WIDE_CHANNELS = 1024
_CHAIN_CHANNELS = 8

Array = npt.NDArray[np.float32]


class Use(NamedTuple):
    """One consumer of a value: the node and the position among its inputs."""

    node: onnx.NodeProto
    position: int


Uses = Mapping[str, Sequence[Use]]


def materialise(name: str, seed: int = 0) -> onnx.ModelProto:
    """Return architecture `name` (one of `ARCHITECTURES`) with seeded float32 initializers.

    The opset is the file's own. The IR version is raised to 4, so that weights need not be graph inputs.
    """
    model = onnx.load(_architecture_file(name))
    graph = model.graph
    fixed, shapes = _split_initializers(graph)
    uses = _uses(graph)
    rng = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array(_weight(rng, shape, weight, uses), weight) for weight, shape in shapes.items()
    ]
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    known = {*shapes, *(tensor.name for tensor in graph.initializer)}
    inputs = [value for value in graph.input if value.name not in known]
    for field, values in (
        (graph.node, nodes),
        (graph.input, inputs),
        (graph.initializer, [*fixed, *weights]),
    ):
        kept = list(values)
        del field[:]
        field.extend(kept)
    model.ir_version = max(model.ir_version, 4)
    return model


def chain(count: int, seed: int = 0) -> onnx.ModelProto:
    """Return `count` layers of Conv 3x3 → BatchNormalization → Relu on [1, 8, 8, 8] float32 values.

    Each layer shrinks what it is given and adds a bias, so the values stay of order one at any depth.
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = "input"
    for index in range(count):
        layer = _conv_bn_relu(f"layer{index}", value, rng)
        nodes += layer[0]
        weights += layer[1]
        value = nodes[-1].output[0]
    return _model("chain", nodes, weights, value, [1, _CHAIN_CHANNELS, 8, 8])


def wide(gigabytes: float, seed: int = 0) -> onnx.ModelProto:
    """Return Conv 3x3 → Relu layers of 1024 channels on 7x7 values; `gigabytes` (1e9 bytes) of weights."""
    rng = np.random.default_rng(seed)
    shape = (_WIDE_CHANNELS, _WIDE_CHANNELS, 3, 3)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = "input"
    for index in range(math.ceil(gigabytes * 1e9 / (4 * math.prod(shape)))):
        name = f"conv{index}"
        nodes.append(_node("Conv", name, [value, f"{name}.weight"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        nodes.append(_node("Relu", f"relu{index}", [name]))
        weights.append(numpy_helper.from_array(_normal(rng, shape, _he(shape[1:])), f"{name}.weight"))
        value = f"relu{index}"
    return _model("wide", nodes, weights, value, [1, _WIDE_CHANNELS, 7, 7])


def save(model: onnx.ModelProto, path: Path, external: bool = False) -> None:
    """Write `model` to `path`, and its weights to `path` + `.data` if `external`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.with_name(path.name + ".data")
    data.unlink(missing_ok=True)  # onnx appends to an external file that is there
    if external:
        onnx.save(model, path, save_as_external_data=True, location=data.name)
    else:
        onnx.save(model, path)


def _architecture_file(name: str) -> Path:
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}: choose from {', '.join(ARCHITECTURES)}")
    return Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"


def _split_initializers(graph: onnx.GraphProto) -> tuple[list[onnx.TensorProto], dict[str, tuple[int, ...]]]:
    """Return the initializers to keep, and the shape of every float weight to draw, in file order."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    shapes: dict[str, tuple[int, ...]] = {}
    dropped: set[str] = set()
    for node in graph.node:
        if node.op_type == "ConstantOfShape":
            shapes[node.output[0]] = tuple(numpy_helper.to_array(tensors[node.input[0]]).tolist())
            dropped.add(node.input[0])
    for name, tensor in tensors.items():
        if tensor.data_type == onnx.TensorProto.FLOAT:
            shapes[name] = tuple(tensor.dims)
            dropped.add(name)
    return [tensor for name, tensor in tensors.items() if name not in dropped], shapes


def _uses(graph: onnx.GraphProto) -> dict[str, list[Use]]:
    uses: dict[str, list[Use]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            uses.setdefault(name, []).append(Use(node, position))
    return uses


def _role(name: str, uses: Uses) -> Use | None:
    """Return the first consumer of `name`, seen through reshapes; None when nothing reads it."""
    if name not in uses:
        return None
    use = uses[name][0]
    return _role(use.node.output[0], uses) if use.node.op_type in _VIEWS else use


def _weight(rng: np.random.Generator, shape: tuple[int, ...], name: str, uses: Uses) -> Array:
    """Draw one weight: He-scaled for Conv and Gemm, near one for scales and variances, else small."""
    role = _role(name, uses)
    if role is None:
        return np.zeros(shape, np.float32)
    kind, position = role.node.op_type, role.position
    gain = np.float32(GAINS.get((kind, _reader(role.node, uses)), 1))
    if kind in ("Conv", "Gemm") and position == 1:
        return gain * _normal(rng, shape, _he(_fan_in(role.node, shape)))
    if kind == "Mul" or (kind, position) == ("BatchNormalization", 1):
        return gain * _near_one(rng, shape)
    if (kind, position) == ("BatchNormalization", 4):
        return _near_one(rng, shape)
    return _normal(rng, shape, 0.1)


def _reader(node: onnx.NodeProto, uses: Uses) -> str | None:
    """Return the first operator that reads the node's result; None when it is the graph's output."""
    readers = uses.get(node.output[0])
    return readers[0].node.op_type if readers else None


def _fan_in(node: onnx.NodeProto, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the dimensions of a weight that one output element sums over."""
    if node.op_type == "Conv":
        return shape[1:]
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return shape[-1:] if transposed else shape[-2:-1]


def _he(fan_in: Sequence[int]) -> float:
    """Return the deviation sqrt(2 / fan-in) of He et al., "Delving Deep into Rectifiers" (2015), §2.2."""
    return math.sqrt(2 / math.prod(fan_in))


def _normal(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Array:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)


def _near_one(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def _conv_bn_relu(
    name: str, value: str, rng: np.random.Generator
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    shape = (_CHAIN_CHANNELS, _CHAIN_CHANNELS, 3, 3)
    channels = (_CHAIN_CHANNELS,)
    tensors = {
        f"{name}.weight": _normal(rng, shape, 0.5 * _he(shape[1:])),
        f"{name}.scale": _near_one(rng, channels),
        f"{name}.bias": _normal(rng, channels, 0.5),
        f"{name}.mean": _normal(rng, channels, 0.1),
        f"{name}.var": _near_one(rng, channels),
    }
    weight, *statistics = tensors
    nodes = [
        _node("Conv", f"{name}.conv", [value, weight], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        _node("BatchNormalization", f"{name}.bn", [f"{name}.conv", *statistics]),
        _node("Relu", f"{name}.relu", [f"{name}.bn"]),
    ]
    return nodes, [numpy_helper.from_array(array, key) for key, array in tensors.items()]


def _node(op_type: str, name: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [name], name=name, **attributes)


def _model(
    name: str, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], output: str, shape: list[int]
) -> onnx.ModelProto:
    """Return the model of a graph whose one input, `input`, and one output have the same `shape`."""
    values = [helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, shape) for key in ("input", output)]
    graph = helper.make_graph(nodes, name, values[:1], values[1:], weights)
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="graphopt-benchmarks")


def _jobs(arguments: argparse.Namespace) -> dict[str, Callable[[], onnx.ModelProto]]:
    """Return what to build: the file's stem and the function that makes its model."""
    seed: int = arguments.seed
    jobs: dict[str, Callable[[], onnx.ModelProto]] = {}
    for name in arguments.models:
        jobs[name] = lambda name=name: materialise(name, seed)  # type: ignore[misc]
    for count in arguments.chain:
        jobs[f"chain{count}"] = lambda count=count: chain(count, seed)  # type: ignore[misc]
    for size in arguments.gigabytes:
        jobs[f"wide{size:g}gb"] = lambda size=size: wide(size, seed)  # type: ignore[misc]
    return jobs


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="build_models", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="where the files go")
    parser.add_argument("--models", nargs="*", choices=ARCHITECTURES, default=None, metavar="NAME")
    parser.add_argument("--chain", nargs="+", type=int, default=[], metavar="N", help="layers of a chain")
    parser.add_argument(
        "--gigabytes", nargs="+", type=float, default=[], metavar="G", help="implies --external"
    )
    parser.add_argument("--external", action="store_true", help="weights in a .data file beside the model")
    parser.add_argument("--missing", action="store_true", help="leave files that are already there")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.models is None:
        arguments.models = [] if arguments.chain or arguments.gigabytes else list(ARCHITECTURES)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Build the models that the command line names, and print their paths."""
    arguments = _parse(argv)
    for stem, build in _jobs(arguments).items():
        external = arguments.external or stem.startswith("wide")
        path = arguments.folder / f"{stem}{'-external' if external else ''}.onnx"
        if not (arguments.missing and path.exists()):
            save(build(), path, external)
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

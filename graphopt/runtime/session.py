"""onnxruntime: sessions that share the weights in memory, seeded inputs, and shapes seen by running."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from graphopt.errors import InputError, RefusedError, TooLongError
from graphopt.files import show
from graphopt.model import carried, io
from graphopt.model.io import Source
from graphopt.runtime.limits.memory import machine_bytes
from graphopt.runtime.limits.threads import default as default_threads
from graphopt.runtime.limits.watchdog import limited
from graphopt.types import Shape

if TYPE_CHECKING:
    import onnxruntime

Feeds: TypeAlias = dict[str, npt.NDArray[Any]]
"""One array a model input, by name."""
Session: TypeAlias = "onnxruntime.InferenceSession"
"""A model that is ready to run."""

PROVIDER = "CPUExecutionProvider"
"""What runs models where nothing else is asked for."""
THREADS = 1
"""Threads that an operator gets where time is measured: derived, with one the times of operators add up."""

INLINE_BYTES = 1024
"""Weights up to this size travel inside the model that a session parses; no result depends on it."""
DRAWN = 65_521
"""Random numbers that are drawn for an array; a larger one repeats them. Derived: the largest prime below
2¹⁶, so that rows differ."""
SHARED_TYPES = frozenset("efdlihBb?")
"""NumPy type codes that onnxruntime can take from outside the model."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A model apart from its large weights.

    Attributes:
        proto: the model; large initializers are references without content.
        weights: the content of those initializers, by name.
    """

    proto: onnx.ModelProto
    weights: Mapping[str, npt.NDArray[Any]]


def structure(model: ir.Model) -> Structure:
    """Splits a model into its graph and its large weights, which are not copied.

    Initializers that nothing reads are left out: onnxruntime drops them before it looks for their content.
    """
    clone = model.clone()
    weights: dict[str, npt.NDArray[Any]] = {}
    for name, value in list(clone.graph.initializers.items()):
        if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
            del clone.graph.initializers[name]
            continue
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= INLINE_BYTES or not _shared(array := tensor.numpy()):
            continue
        weights[name] = array
        value.const_value = ir.ExternalTensor(
            "weights",
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
    proto = ir.to_proto(clone)
    carried.put_back(proto, clone, sparse=False)
    return Structure(proto, weights)


def tensors(
    arrays: Mapping[str, npt.NDArray[Any]],
) -> tuple[list[onnx.TensorProto], dict[str, npt.NDArray[Any]]]:
    """Initializers of a model to be made: small ones whole, of large ones a reference and the content."""
    inline: list[onnx.TensorProto] = []
    weights: dict[str, npt.NDArray[Any]] = {}
    for name, array in arrays.items():
        if not _shared(array):
            inline.append(onnx.numpy_helper.from_array(np.array(array, order="C"), name))
            continue
        weights[name] = array
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        proto = onnx.TensorProto(name=name, dims=array.shape, data_type=kind)
        proto.data_location = onnx.TensorProto.EXTERNAL
        proto.external_data.add(key="location", value="weights")
        inline.append(proto)
    return inline, weights


def _shared(array: npt.NDArray[Any]) -> bool:
    """Whether an array is large, and of a type that onnxruntime takes from outside the model."""
    return array.nbytes > INLINE_BYTES and array.dtype.char in SHARED_TYPES


def session(
    parts: Structure,
    *,
    optimised: bool,
    threads: int = 0,
    provider: str = PROVIDER,
    profile: Path | None = None,
) -> onnxruntime.InferenceSession:
    """An onnxruntime session.

    Args:
        parts: the model.
        optimised: whether onnxruntime may rewrite the graph (ORT_ENABLE_ALL or ORT_DISABLE_ALL).
        threads: for one operator; 0 stands for `runtime.limits.threads.default`.
        provider: the execution provider.
        profile: what the name of the file begins with that takes what ran when; None for no such file.

    Returns:
        The session; its threads sleep while they wait.

    Raises:
        InputError: onnxruntime can't load the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads or default_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others need the processor too
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    if not optimised:  # what is run as it stands is run a few times only: preparing for more doesn't pay
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_mem_pattern = False  # planning it takes time with the square of the model's size
    if parts.weights:
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(w)) for w in parts.weights.values()]
        options.add_external_initializers(list(parts.weights), values)
    try:
        return ort.InferenceSession(parts.proto.SerializeToString(), options, providers=[provider])
    except Exception as error:
        raise _not_loaded(error) from error


_LACKS = re.compile(
    "Could not find an implementation|is not a registered function/op|No Op registered for"
    "|Type 'tensor\\([a-z0-9]+\\)' of input parameter|type inference failed, inferred types"
)
"""How onnxruntime says that it has no such operator, or not for the type of what it reads; of an operator in
a function it says that all types may come out."""
_TYPES = re.compile(r", inferred types: \S*")
"""Which types may come out, in another order at each run."""
_PLACE = re.compile(r"/\S+\.(?:h|cc):\d+ .* was false\. ")
"""Where in its own source onnxruntime found a fault, and by which condition."""


def _not_loaded(error: Exception) -> InputError:
    import onnxruntime as ort

    state = ort.capi.onnxruntime_pybind11_state
    text = _PLACE.sub("", one_line(error))
    lacks, text = _LACKS.search(text), _TYPES.sub("", text)
    said = isinstance(error, (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.InvalidArgument))
    kind = RefusedError if said and not lacks else InputError
    return kind(f"onnxruntime can't load the model: {text}")


def unloaded(source: Source) -> str:
    """Why onnxruntime can't load a model as it stands, for what onnxruntime lacks; "" where it can.

    Args:
        source: the model as it was given; a file is judged as it is.

    Returns:
        The operator, type or memory that is not there, or that the file alone can be loaded, or "".

    Raises:
        RefusedError: it refuses the model for what the model says.
    """
    import onnxruntime as ort

    try:
        session(structure(source.model), optimised=False)
    except InputError as error:
        lacking = source.uninlined is not None and not isinstance(error, RefusedError)  # and names what
        if source.path is None or lacking:
            problem: InputError = error
        else:
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            try:
                ort.InferenceSession(source.path, options, providers=[PROVIDER])
            except Exception as itself:
                problem = _not_loaded(itself)
            else:
                return f"onnxruntime loads the file, and not what was read of it, please report this: {error}"
        if isinstance(problem, RefusedError):
            where = "the model" if source.path is None else show(source.path)
            raise RefusedError(f"{where}: {problem}; repair it, or export it again") from error
        return str(problem)
    return ""


def refused(source: Source) -> bool:
    """Whether onnxruntime refuses a model as it was given, whatever became of it since."""
    given = source.given if source.path is None else source.path
    if given is None:
        return False
    try:
        unloaded(io.load(given))
    except RefusedError:
        return True
    return False


def one_line(error: Exception) -> str:
    """The first line of an error's message, without onnxruntime's status prefix."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text


def random_feeds(
    model: ir.Model,
    sizes: Mapping[str, Sequence[int]],
    seed: int,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Feeds:
    """Seeded inputs: uniform within the range where that is known, else normal; integers and texts of 0 or 1.

    Args:
        model: the model to be fed.
        sizes: the shape of every input, by name.
        seed: of the random numbers.
        ranges: lowest and highest value of an input, where known.

    Returns:
        An array for each input that has a size, by name.
    """
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for value in model.graph.inputs:
        name = value.name or ""
        if name not in sizes:
            continue
        low_high = None if ranges is None else ranges.get(name)
        feeds[name] = random_array(rng, tuple(sizes[name]), value.dtype, low_high)
    return feeds


def random_array(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: ir.DataType | None,
    low_high: tuple[float, float] | None = None,
) -> npt.NDArray[Any]:
    """A seeded array of an ONNX type.

    Args:
        rng: draws the numbers.
        shape: of the array.
        dtype: of the array; None for float32.
        low_high: draw uniformly between these; None for a normal distribution, and integers of 0 or 1.

    Returns:
        An array of `shape`; texts are "0" and "1". Large normal ones repeat the first `DRAWN` numbers.

    Raises:
        InputError: it would take more memory than there is.
    """
    kind = np.dtype(np.float32) if dtype is None else np.dtype(dtype.numpy())
    require_memory(shape, kind.itemsize)
    if kind.kind in "iu" and low_high is not None:
        low, high = map(int, low_high)
        wide = np.uint64 if kind == np.uint64 else np.int64
        return rng.integers(low, high, shape, wide, endpoint=True).astype(kind)
    if kind.kind in "biuO":
        bits = rng.integers(0, 2, shape)
        return (bits.astype(str) if kind.kind == "O" else bits).astype(kind)
    if low_high is not None:
        return rng.uniform(*low_high, shape).astype(kind)
    size = math.prod(shape)
    drawn = rng.standard_normal(min(size, DRAWN), np.float32)  # float16 and float64 take the same numbers
    return np.resize(drawn, shape).astype(kind, copy=False)


def require_memory(shape: Sequence[int], itemsize: int) -> None:
    """Makes sure that an array can be held.

    Raises:
        InputError: it would take more memory than there is.
    """
    needed, there = math.prod(shape) * itemsize, machine_bytes()
    if needed > there:
        sizes = "x".join(map(str, shape))
        raise InputError(f"an array of {sizes} takes {needed:.3g} bytes, and there are {there:.3g}")


def observe(model: ir.Model, feeds: Feeds, names: Sequence[str]) -> dict[str, Shape]:
    """The shapes of values of the outermost graph, seen by running the model once.

    A Shape operator behind each value returns its shape alone, so that no large output is kept.

    Args:
        model: the model.
        feeds: what it is run on, by name.
        names: values of its outermost graph.

    Returns:
        A shape for each of `names`.

    Raises:
        InputError: onnxruntime can't load or run the model.
    """
    parts = structure(model)
    reported = {name: f"{name}/graphopt_shape" for name in names}
    for name, shape_name in reported.items():
        parts.proto.graph.node.append(onnx.helper.make_node("Shape", [name], [shape_name]))
        parts.proto.graph.output.add(name=shape_name)
    running = session(parts, optimised=False)
    sizes = run(running, feeds, list(reported.values()))
    return {name: tuple(int(d) for d in size) for name, size in zip(names, sizes, strict=True)}


def run(
    running: onnxruntime.InferenceSession, feeds: Feeds, outputs: Sequence[str] | None = None
) -> list[npt.NDArray[Any]]:
    """Runs a session.

    Args:
        running: the session.
        feeds: the inputs, by name.
        outputs: names of the outputs to return; None for all.

    Returns:
        The outputs, in that order.

    Raises:
        InputError: onnxruntime fails on these inputs.
        TooLongError: it came to no end; this is an InputError, too.
    """
    try:
        with limited() as options:
            return [arrays(value) for value in running.run(outputs, feeds, options)]
    except TooLongError:
        raise
    except Exception as error:
        raise InputError(f"onnxruntime can't run the model: {one_line(error)}") from error


def arrays(output: Any) -> Any:
    """An output with arrays in the place of maps: their keys, then their values.

    Args:
        output: what onnxruntime returns: an array, a map, or a list of those for a sequence.

    Returns:
        The array, or a list of arrays; maps of the same keys have a row of values each, [maps, keys].
    """
    maps = [output] if isinstance(output, dict) else output
    if not isinstance(maps, list) or not maps or not all(isinstance(each, dict) for each in maps):
        return output
    keys, values = ([part for each in maps for part in take(each)] for take in (dict.keys, dict.values))
    found = np.array(values)
    if found.dtype.kind == "f":
        found = found.astype(np.float32)  # what ZipMap makes; Python's numbers are wider
    if all(list(each) == list(maps[0]) for each in maps):
        return [np.array(list(maps[0])), found.reshape(len(maps), -1)]
    return [np.array(keys), found]


class Interpreter:
    """A model that onnxruntime runs as it stands, a few times: its weights are fed, which copies nothing.

    Args:
        parts: the model.

    Raises:
        InputError: onnxruntime can't load the model.
    """

    def __init__(self, parts: Structure) -> None:
        self._weights: Mapping[str, npt.NDArray[Any]] = {
            name: np.require(array, requirements=("C", "ALIGNED")) for name, array in parts.weights.items()
        }
        try:
            self._session = session(Structure(_with_weights_fed(parts), {}), optimised=False)
        except InputError:  # some operators insist on constant weights
            self._session, self._weights = session(parts, optimised=False), {}

    def run(self, feeds: Feeds) -> list[npt.NDArray[Any]]:
        """The model's outputs.

        Raises:
            InputError: onnxruntime fails on these inputs.
        """
        return run(self._session, {**self._weights, **feeds})


def _with_weights_fed(parts: Structure) -> onnx.ModelProto:
    """The model with its large weights as inputs."""
    proto = onnx.ModelProto()
    proto.CopyFrom(parts.proto)
    graph = proto.graph
    present = {value.name for value in graph.input}
    graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if tensor.name in parts.weights and tensor.name not in present
    )
    small = [tensor for tensor in graph.initializer if tensor.name not in parts.weights]
    del graph.initializer[:]
    graph.initializer.extend(small)
    return proto

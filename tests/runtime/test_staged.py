"""Running a model piece by piece, and arrays that may lie in files."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphopt.analysis.linear import Form
from graphopt.rewrites.builder import Builder
from graphopt.runtime.program import Program
from graphopt.runtime.spill import Store
from graphopt.runtime.staged import StagedRun
from tests.builders import Net, classifier, run, samples


def chain() -> onnx.ModelProto:
    """Two convolutions with a shortcut around the second, and a sum."""
    net = Net()
    a = net.op("Relu", net.conv(net.input([None, 4, 6, 6]), 4, pads=[1] * 4))
    b = net.conv(a, 4, pads=[1] * 4)
    return net.model(net.op("Relu", net.op("Add", b, a)))


def inner(proto: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    """Every value of a model, from running it whole."""
    names = [name for node in proto.graph.node for name in node.output]
    seen = onnx.ModelProto.FromString(proto.SerializeToString())
    del seen.graph.output[:]
    seen.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, run(seen, {proto.graph.input[0].name: x}), strict=True))


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "in files"])
@pytest.mark.parametrize("make", [chain, classifier])
def test_pieces_make_what_the_whole_makes(make: object, limit: int) -> None:
    assert callable(make)
    proto = make()
    x = samples(7, *[d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:]])
    expected = inner(proto, x)
    program = Program(ir.from_proto(proto))
    name = proto.graph.input[0].name
    with Store(limit) as store:
        walk = StagedRun(program, [{name: x[:4]}, {name: x[4:]}], store)
        for place, node in enumerate(proto.graph.node):
            walk.advance(place + 1, node.output)
            found = np.concatenate(walk.values(node.output[0]))
            np.testing.assert_allclose(found, expected[node.output[0]], rtol=1e-4, atol=1e-5)
            walk.forget()
            assert all(program.last_use(held) > place for held in store)
        assert (store.spilled > 0) == (limit == 0)


def test_two_walks_side_by_side() -> None:
    """One operator is replaced in the second; it runs only what differs, and what that needs."""
    proto = chain()
    x = samples(5, 4, 6, 6)
    first, *_, last = proto.graph.node
    name = proto.graph.input[0].name
    program = Program(ir.from_proto(proto))
    with Store(1 << 30) as ours, Store(1 << 30) as theirs:
        original = StagedRun(program, [{name: x}], ours)
        other = StagedRun(program, [{name: x}], theirs, beside=original)
        original.advance(1)
        other.advance(0)
        builder = Builder(np.dtype(np.float32))
        eye = np.eye(4).reshape(4, 4, 1, 1)
        y = builder.linear(Form("Conv", 1, (1, 1), (0,) * 4, (1, 1)), name, eye, None)
        other.replace(0, builder.replacement({first.output[0]: y}))
        assert other.differs(first.output[0]) and not original.differs("nothing")
        end = len(program.nodes)
        original.advance(end, last.output)
        other.advance(end, last.output)
        found = other.values(last.output[0])[0]
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    convolution = next(n for n in proto.graph.node[1:] if n.op_type == "Conv")
    net = Net()
    start = net.op("Relu", net.input([5, 4, 6, 6]))
    again = net.conv(start, 4, pads=[1] * 4, weight=weights[convolution.input[1]])
    alone = net.model(net.op("Relu", net.op("Add", again, start)))
    bias = weights[convolution.input[2]] if len(convolution.input) > 2 else np.zeros(4, np.float32)
    own = next(n for n in alone.graph.node if n.op_type == "Conv")
    for tensor in alone.graph.initializer:
        if len(own.input) > 2 and tensor.name == own.input[2]:
            tensor.CopyFrom(onnx.numpy_helper.from_array(bias, tensor.name))
    (expected,) = run(alone, {alone.graph.input[0].name: x})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_store_counts_what_it_holds_and_deletes_its_files() -> None:
    array = np.arange(100, dtype=np.float32)
    with Store(500) as store:
        store.add("a", array)
        store.add("a", array + 1)
        assert store.spilled == array.nbytes
        assert isinstance(store["a"][1], np.memmap) and not isinstance(store["a"][0], np.memmap)
        np.testing.assert_array_equal(store["a"][1], array + 1)
        path = store["a"][1].filename
        store.drop("a")
        assert "a" not in store and path is not None and not __import__("os").path.exists(path)
        store.add("b", array)
        assert store.spilled == array.nbytes  # there is room again

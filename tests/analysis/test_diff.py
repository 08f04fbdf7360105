"""What changed between two models: pairs of layers, whoever made the change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import graphopt
from graphopt.analysis.diff import Diff
from models import classic
from tests.builders import classifier, conv_bn, model, node, saved, weight
from tests.command import cli, on_80_columns


def chain(*names: str, channels: int = 8, seeds: tuple[int, ...] = ()) -> onnx.ModelProto:
    """Convolutions 3x3 one behind the other, of these names."""
    weights, nodes, value = {}, [], "x"
    for i, name in enumerate(names):
        last = i == len(names) - 1
        weights[f"w{i}"] = weight(
            channels if not last else 8, channels if i else 8, 3, 3, seed=(*seeds, *range(9))[i]
        )
        made = "y" if last else f"{name}_out"
        nodes.append(node("Conv", f"{value} w{i}", made, name, pads=[1, 1, 1, 1]))
        value = made
    return model(nodes, weights, outputs={"y": [1, 8, 8, 8]})


def told(found: Diff) -> list[tuple[str, list[str], list[str]]]:
    return [(c.change, [x.name for x in c.before], [x.name for x in c.after]) for c in found.layers]


def test_the_same_model() -> None:
    found = graphopt.diff(classifier(), classifier())
    assert not found
    assert found.same_layers == 3


def test_what_a_rewrite_made_is_found_by_its_stamp() -> None:
    before = classic.build()
    found = graphopt.diff(before, graphopt.optimize(before).model)
    (layer,) = found.layers
    assert layer.change == "changed" and layer.rewrites == ("lossless_bottleneck",)
    assert (layer.macs_before, layer.macs_after) == (120_422_400, 12_443_648)
    assert [x.kernel for x in layer.after] == [(1, 1), (5, 5)]
    assert found.operators == {"Conv": (1, 2)}
    assert (found.totals_before.macs, found.totals_after.macs) == (layer.macs_before, layer.macs_after)


def test_what_several_rewrites_made_one_after_the_other() -> None:
    """The first folds a factor in, the second splits the result, so that its stamp names the first's."""
    rank = weight(32, 4, 1, 1).reshape(32, 4) @ weight(4, 8 * 25, seed=1)
    weights = {"w": rank.reshape(32, 8, 5, 5).astype(np.float32)}
    nodes = [node("Conv", "x w", "c", "conv", pads=[2, 2, 2, 2]), node("Mul", "c s", "y", "scale")]
    weights["s"] = np.full((32, 1, 1), 2, np.float32)
    before = model(nodes, weights, outputs={"y": [1, 32, 8, 8]})
    result = graphopt.optimize(before)
    assert len(result.report.applied) >= 2
    found = graphopt.diff(before, result.model)
    assert told(found)[0][:2] == ("changed", ["conv"])
    assert len(found.layers) == 1 and len(found.layers[0].after) == 2


def test_other_weights_in_the_same_structure() -> None:
    found = graphopt.diff(chain("a", "b"), chain("a", "b", seeds=(0, 7)))
    assert told(found) == [("weights", ["b"], ["b"])]
    assert found.same_layers == 1 and found


def test_layers_without_names_are_found_by_their_weights() -> None:
    found = graphopt.diff(chain("a", "b", "c"), chain("q", "r", "s"))
    assert not found.layers and found.same_layers == 3


def test_a_layer_more_between_layers_with_numbered_names() -> None:
    """Names that count on, as exporters make them, do not mislead."""
    found = graphopt.diff(chain("Conv_0", "Conv_1"), chain("Conv_0", "Conv_1", "Conv_2", seeds=(0, 8, 1)))
    assert told(found) == [("added", [], ["Conv_1"])]
    assert found.same_layers == 2


def test_layers_with_other_names_and_weights_are_found_by_structure() -> None:
    found = graphopt.diff(chain("a", "b"), chain("q", "r", seeds=(5, 6)))
    assert [change for change, _, _ in told(found)] == ["weights", "weights"]


def test_other_channels() -> None:
    found = graphopt.diff(chain("a", "b"), chain("a", "b", channels=4))
    assert told(found) == [("changed", ["a"], ["a"]), ("changed", ["b"], ["b"])]
    assert found.layers[0].macs_after == (found.layers[0].macs_before or 0) // 2


def test_removed() -> None:
    assert told(graphopt.diff(chain("a", "b"), chain("b", seeds=(1,)))) == [("removed", ["a"], [])]


def test_operators_that_are_no_layers() -> None:
    before, after = conv_bn(), conv_bn()
    scale = next(t for t in after.graph.initializer if t.name == "bn/scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 2, "bn/scale"))
    after.graph.node[1].attribute.add(name="epsilon", type=onnx.AttributeProto.FLOAT, f=0.5)
    (other,) = graphopt.diff(before, after).other
    assert (other.name, other.op) == ("bn", "BatchNormalization")
    assert (other.attributes, other.constants) == (True, True)


def test_initializers_that_are_inputs_too_count_by_what_they_hold() -> None:
    before, after = conv_bn(overridable=["w"]), conv_bn()
    assert graphopt.diff(before, after).same_layers == 1


def test_another_interface() -> None:
    after = conv_bn(outputs={"y": ["N", 8, 8, 8]})
    assert "outputs" in graphopt.diff(conv_bn(), after).interface


def test_the_command(tmp_path: Path) -> None:
    before = saved(classic.build(), tmp_path / "before.onnx")
    graphopt.optimize(before).save(tmp_path / "after.onnx")
    done = cli("diff", before, tmp_path / "after.onnx")
    assert done.code == 0 and not done.err
    assert "lossless_bottleneck" in done.out and "Conv\u00a01→2" in done.out
    done = cli("diff", before, tmp_path / "after.onnx", "--json")
    document = json.loads(done.out)
    assert document["different"] and document["layers"][0]["macs_after"] == 12_443_648
    assert [x["out_channels"] for x in document["layers"][0]["after"]] == [16, 32]
    assert document["after"]["totals"]["nodes"] == 2
    assert "no difference" in cli("diff", before, before).out
    assert cli("diff", before, tmp_path / "missing.onnx").code == 2


def test_long_names_fit_80_columns(tmp_path: Path) -> None:
    names = tuple(f"/backbone/stages.{i}/blocks.0/very/long/name/of/a/layer/conv/Conv" for i in range(3))
    paths = [saved(chain(*names, channels=c), tmp_path / f"{c}.onnx") for c in (8, 4)]
    lines = on_80_columns("diff", *paths).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("3x3" in line for line in lines) == 3
    assert any(names[0] in line for line in cli("diff", *paths).out.splitlines()), "in a file they are whole"

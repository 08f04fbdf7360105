"""GraphOpt in real Olive workflows, offline."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

from tests.places import MODELS

os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"  # before Olive is imported: tests reach nothing

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from olive.model import ModelConfig, ONNXModelHandler, PyTorchModelHandler
from olive.passes.olive_pass import create_pass_from_dict
from olive.workflows import run

import graphopt
from graphopt import BudgetError, InputError
from graphopt.integrations import olive_pass
from graphopt.integrations.olive_pass import GraphOpt, OliveError, package_config, write_package_config
from graphopt.report import provenance
from tests.builders import classifier, conv_bn, samples, saved


def workflow(model: Path, folder: Path, **parameters: Any) -> dict[str, Any]:
    """GraphOpt alone, with its cache and its result in the folder."""
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(model)},
        "passes": {"cheaper": {"type": "GraphOpt", **parameters}},
        "output_dir": str(folder / "out"),
        "cache_dir": str(folder / "cache"),
        "evaluate_input_model": False,
        "log_severity_level": 3,
    }


def ran(config: dict[str, Any]) -> Path:
    """Runs a workflow; the folder of its result."""
    run(deepcopy(config), package_config=package_config())  # Olive rearranges what it is given
    return Path(config["output_dir"])


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / olive_pass.REPORT).read_text(encoding="utf-8"))
    return found


def loaded(out: Path) -> ONNXModelHandler:
    """The result as Olive describes it."""
    text = (out / "model_config.json").read_text(encoding="utf-8")
    handler = ModelConfig.model_validate_json(text).create_model()
    assert isinstance(handler, ONNXModelHandler)
    return handler


def test_a_workflow_of_the_command_line(tmp_path: Path) -> None:
    """Exact rewrites, then Olive's own quantisation of what they leave."""
    config = workflow(MODELS / "resnet-digits.onnx", tmp_path)
    config["passes"]["int8"] = {"type": "OnnxDynamicQuantization"}
    done = command(tmp_path, config)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    found = report(out)
    assert found["exit_code"] == 0
    assert {item["rewrite"] for item in found["applied"]} >= {"fold_affine"}
    assert found["verification"]["passed"]
    kinds = {node.op_type for node in onnx.load(loaded(out).model_path).graph.node}
    assert "ConvInteger" in kinds and "BatchNormalization" not in kinds
    loaded(out).prepare_session()
    entries = onnx.load(loaded(out).model_path).metadata_props  # which Olive's own passes keep
    (record,) = provenance.read({entry.key: entry.value for entry in entries})
    assert record.input_sha256 == hashlib.sha256((MODELS / "resnet-digits.onnx").read_bytes()).hexdigest()
    assert {item.rewrite for item in record.rewrites} == {item["rewrite"] for item in found["applied"]}


def test_a_budget_with_calibration_inputs(tmp_path: Path) -> None:
    model = saved(classifier(), tmp_path / "model.onnx")
    np.savez(tmp_path / "inputs.npz", x=samples(64))
    chosen = {"budget": {"macs": 0.8}, "calibration": str(tmp_path / "inputs.npz"), "seed": 3}
    out = ran(workflow(model, tmp_path, **chosen, skip=["depthwise_separable"], keep=["gemm"]))
    written = loaded(out).model_path
    before, after = graphopt.scan(model).totals.macs, graphopt.scan(written).totals.macs
    assert before and after and after <= 0.8 * before
    assert report(out)["quality"]["samples"] == 16
    assert report(out)["options"]["seed"] == 3
    straight = graphopt.optimize(
        model, {"macs": 0.8}, tmp_path / "inputs.npz", skip=["depthwise_separable"], keep=["gemm"], seed=3
    )
    straight.save(tmp_path / "straight.onnx")
    assert Path(written).read_bytes() == (tmp_path / "straight.onnx").read_bytes()


def test_a_data_config_of_olive(tmp_path: Path) -> None:
    model, given = saved(classifier(), tmp_path / "model.onnx"), samples(40)
    (tmp_path / "data" / "x").mkdir(parents=True)
    for number, sample in enumerate(given):
        sample.tofile(tmp_path / "data" / "x" / f"{number:03}.bin")
    config = workflow(model, tmp_path, budget={"macs": 0.8}, data_config="inputs")
    shape = {"data_dir": str(tmp_path / "data"), "input_names": ["x"], "input_shapes": [[1, 8, 8, 8]]}
    config["data_configs"] = [
        {"name": "inputs", "type": "RawDataContainer", "load_dataset_config": {"params": shape}}
    ]
    out = ran(config)
    straight = graphopt.optimize(model, {"macs": 0.8}, given)
    straight.save(tmp_path / "straight.onnx")
    assert Path(loaded(out).model_path).read_bytes() == (tmp_path / "straight.onnx").read_bytes()


def test_what_olive_has_cached_is_used_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = saved(classifier(), tmp_path / "model.onnx"), tmp_path / "inputs"
    inputs.mkdir()
    np.savez(inputs / "first.npz", x=samples(32))
    config = workflow(model, tmp_path, calibration=str(inputs))
    calls: list[object] = []
    optimize = graphopt.optimize
    monkeypatch.setattr(graphopt, "optimize", lambda *a, **k: calls.append(a) or optimize(*a, **k))
    ran(config)
    ran(config)
    assert len(calls) == 1
    np.savez(inputs / "first.npz", x=samples(32, seed=8))
    ran(config)
    assert len(calls) == 2
    monkeypatch.setattr(graphopt, "__version__", "99.0")
    ran(config)
    assert len(calls) == 3
    config["passes"]["cheaper"]["fingerprint"] = "graphopt 0"  # it can't be set
    ran(config)
    assert len(calls) == 3


@pytest.mark.parametrize("how", ["asked for", "large"])
def test_external_data(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(classifier(channels=32), tmp_path / "model.onnx")
    if how == "large":
        monkeypatch.setattr(olive_pass, "ONE_FILE_BYTES", 10_000)
    config = workflow(model, tmp_path, save_as_external_data=how == "asked for")
    config["passes"]["checked"] = {"type": "OnnxPeepholeOptimizer"}
    ran(config)
    single = workflow(model, tmp_path, save_as_external_data=how == "asked for")
    out = ran(single)
    assert {path.name for path in out.glob("model.onnx*")} == {"model.onnx", "model.onnx.data"}
    assert graphopt.verify(model, loaded(out).model_path)
    held = ir.load(loaded(out).model_path).graph.initializers.values()
    assert any(isinstance(value.const_value, ir.ExternalTensor) for value in held)


def test_two_of_them_keep_the_last_report(tmp_path: Path) -> None:
    model = saved(classifier(), tmp_path / "model.onnx")
    config = workflow(model, tmp_path, only=["fold_affine"])
    config["passes"]["again"] = {"type": "GraphOpt", "budget": {"macs": 0.8}}
    out = ran(config)
    assert report(out)["options"]["budget"] == {"macs": 0.8}
    assert graphopt.verify(model, loaded(out).model_path, samples(8), budget={"sqnr": 1})


def test_a_model_with_nothing_to_do(tmp_path: Path) -> None:
    model = saved(conv_bn(), tmp_path / "model.onnx")
    out = ran(workflow(model, tmp_path, skip=["fold_affine"]))
    assert not report(out)["changed"]
    assert Path(loaded(out).model_path).read_bytes() == model.read_bytes()


def command(folder: Path, config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """``olive run``."""
    write_package_config(folder / "packages.json")
    (folder / "workflow.json").write_text(json.dumps(config), encoding="utf-8")
    arguments = ["run", "--config", "workflow.json", "--package-config", "packages.json"]
    return subprocess.run(
        [sys.executable, "-m", "olive", *arguments], cwd=folder, capture_output=True, text=True, timeout=200
    )


def test_the_command_fails_with_the_pass(tmp_path: Path) -> None:
    """Olive exits with 0 after errors of most kinds."""
    model = saved(classifier(), tmp_path / "model.onnx")
    done = command(tmp_path, workflow(model, tmp_path, aim="speed"))
    assert done.returncode != 0
    assert "GraphOpt: aim='speed': it is time or macs" in done.stderr


def test_a_search_goes_on_after_a_missed_budget(tmp_path: Path) -> None:
    model = saved(classifier(1), tmp_path / "model.onnx")
    points = [{"macs": 0.0001}, {"macs": 0.8}]
    budget = {"olive_parameter_type": "SearchParameter", "type": "Categorical", "support": points}
    config = workflow(model, tmp_path, budget=budget)
    latency = {"name": "latency", "type": "latency", "sub_types": [{"name": "avg", "priority": 1}]}
    config["evaluators"] = {"speed": {"type": "OnnxEvaluator", "metrics": [latency]}}
    config |= {"evaluator": "speed", "search_strategy": {"execution_order": "joint", "sampler": "sequential"}}
    out = ran(config)
    assert report(out)["options"]["budget"] == {"macs": 0.8}


def test_a_missed_budget_ends_the_workflow(tmp_path: Path) -> None:
    model = saved(classifier(), tmp_path / "model.onnx")
    with pytest.raises(OliveError) as raised:
        ran(workflow(model, tmp_path, budget={"macs": 0.0001}))
    assert isinstance(raised.value.__cause__, BudgetError)
    assert not list(tmp_path.glob("out/**/*.onnx"))


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"budget": {"mac": 0.5}}, "budget=.'mac': ….: no such key"),
        ({"only": ["fold_afine"]}, "did you mean fold_affine"),
        ({"aim": "speed"}, "it is time or macs"),
        ({"calibration": "nowhere.npz"}, "nowhere.npz"),
    ],
)
def test_parameters_that_do_not_go(tmp_path: Path, parameters: dict[str, Any], says: str) -> None:
    model = saved(classifier(), tmp_path / "model.onnx")
    with pytest.raises(OliveError, match=says):
        ran(workflow(model, tmp_path, **parameters))


def test_calibration_is_given_once(tmp_path: Path) -> None:
    data = {"name": "inputs", "type": "DummyDataContainer"}
    with pytest.raises(ValueError, match="give one of them"):
        create_pass_from_dict(
            GraphOpt, {"calibration": "inputs.npz", "data_config": data}, disable_search=True
        )


def test_other_models_are_refused(tmp_path: Path) -> None:
    torch_model = PyTorchModelHandler(model_loader=lambda path: None)
    made = create_pass_from_dict(GraphOpt, {}, disable_search=True)
    with pytest.raises(OliveError, match="takes ONNX models"):
        made.run(torch_model, str(tmp_path / "out"))


def test_every_option_of_optimize_is_a_parameter() -> None:
    given = set(inspect.signature(graphopt.optimize).parameters)
    elsewhere = {"model", "calibration", "rewrites"}  # rewrites: those of installed packages
    assert set(olive_pass.PARAMETERS) == given - elsewhere


def test_the_package_config_keeps_what_is_there(tmp_path: Path) -> None:
    plain = json.loads(
        Path(olive_pass.OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8")
    )
    mine = {
        "passes": {"Mine": {"module_path": "my.module.Mine"}},
        "extra_dependencies": {"mine": ["my-package"]},
    }
    merged = package_config(mine)
    assert merged["passes"].items() >= {**plain["passes"], **mine["passes"]}.items()
    assert set(merged["passes"]) - set(plain["passes"]) == {"Mine", "GraphOpt"}
    assert merged["extra_dependencies"] == {**plain["extra_dependencies"], "mine": ["my-package"]}
    (tmp_path / "mine.json").write_text(json.dumps(mine), encoding="utf-8")
    write_package_config(tmp_path / "all.json", tmp_path / "mine.json")
    assert json.loads((tmp_path / "all.json").read_text(encoding="utf-8")) == merged
    known = olive_pass.OlivePackageConfig.parse_file_or_obj(tmp_path / "all.json")
    assert known.import_pass_module("GraphOpt") is GraphOpt


def test_package_configs_that_do_not_go(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.json: is no JSON"):
        package_config(tmp_path / "bad.json")
    with pytest.raises(InputError, match="can't be read"):
        package_config(tmp_path / "none.json")
    with pytest.raises(InputError, match="can't be written"):
        write_package_config(tmp_path)

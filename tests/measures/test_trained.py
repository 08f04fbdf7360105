"""Trained networks of each task, with weights that are a little off: figures as evaluations have them."""

from __future__ import annotations

import importlib
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from graphopt.calibration import inputs as calibration_inputs
from graphopt.model import io
from graphopt.types import Score
from graphopt.verification.metrics.task import Scorer, TaskMetric
from tests.builders import Array, session
from tests.places import DATA

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="trained networks are not there (../shared/data)")
FEW = 6


def evaluation(name: str) -> ModuleType:
    """A script that measures a task, of those beside the networks; they read pictures with Pillow."""
    pytest.importorskip("PIL", reason="Pillow is not there")
    if str(DATA / "evaluate") not in sys.path:
        sys.path.append(str(DATA / "evaluate"))
    return importlib.import_module(name)


@cache
def network(name: str) -> onnx.ModelProto:
    return onnx.load(DATA / "models" / f"{name}.onnx")


def off(name: str, part: float) -> onnx.ModelProto:
    """The network, with weights that are off by so much of their deviation."""
    proto, rng = onnx.ModelProto(), np.random.default_rng(0)
    proto.CopyFrom(network(name))
    constants = [a.t for node in proto.graph.node if node.op_type == "Constant" for a in node.attribute]
    for tensor in (*proto.graph.initializer, *constants):
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2:
            array = numpy_helper.to_array(tensor)
            noise = rng.standard_normal(array.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array + part * array.std() * noise, tensor.name))
    return proto


def score(text: str, name: str, inputs: Array, other: onnx.ModelProto) -> Score:
    model = io.load(network(name)).model
    calibration = calibration_inputs.whole(inputs, model)
    return Scorer(TaskMetric(text), model, calibration)(io.load(other).model)


def outputs(proto: onnx.ModelProto, inputs: Array, number: int = 0) -> list[Array]:
    name, running = proto.graph.input[0].name, session(proto, optimised=True)
    return [running.run(None, {name: each[None]})[number] for each in inputs]


def test_detections_of_a_yolo() -> None:
    yolo, images = evaluation("yolo"), evaluation("inputs").people("look")[:FEW]
    other = off("yolov8n-320", 0.06)
    found = [
        [yolo.detections(o[0]) for o in outputs(each, images)] for each in (network("yolov8n-320"), other)
    ]
    hits = sum(yolo.matches(a, b) for a, b in zip(*found, strict=True))
    wanted, got = (sum(len(scores) for _, scores, _ in side) for side in found)
    told = score("detection", "yolov8n-320", images, other).figures
    assert 0.3 < told["recall"] < 1 and 0.3 < told["map"] < told["map50"] <= 1
    assert (told["recall"], told["precision"]) == (pytest.approx(hits / wanted), pytest.approx(hits / got))


def test_faces_of_two_outputs() -> None:
    with np.load(DATA / "inputs" / "faces-320x240.npz") as files:
        faces = np.stack([files[name] for name in files.files[:FEW]])
    faces = ((faces.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    name = "ultraface-version-RFB-320"
    told = score("detection:confidence=0.7", name, faces, off(name, 0.02))
    assert 0.5 < told.figures["recall"] <= 1 and 0.2 < told < 1
    assert score("detection:confidence=0.7", name, faces, network(name)).figures["map50"] == 1


def test_lines_of_text() -> None:
    ctc = evaluation("ctc")
    lines, _ = evaluation("inputs").text_lines("look")
    lines, other = lines[:FEW], off("ppocrv4-rec", 0.03)
    characters = ["", *(p.value for p in network("ppocrv4-rec").metadata_props if p.key == "character")]
    characters = ["", *characters[1].split("\n"), " "]
    read = [
        [ctc.decode(o[0], characters) for o in outputs(each, lines)]
        for each in (network("ppocrv4-rec"), other)
    ]
    told = score("ctc", "ppocrv4-rec", lines, other).figures
    assert told["equal"] == np.mean([a == b for a, b in zip(*read, strict=True)]) < 1
    assert told["equal"] < told["characters"]


def test_embeddings_of_faces(tmp_path: Path) -> None:
    with np.load(DATA / "inputs" / "faces-112.npz") as files:
        faces, who = files["look"], files["look_identity"]
    faces = ((faces.astype(np.float32) - 127.5) / 128).transpose(0, 3, 1, 2)
    np.save(tmp_path / "who.npy", who)
    other = off("mobilefacenet", 0.1)
    told = score(f"embedding:labels={tmp_path / 'who.npy'}", "mobilefacenet", faces, other).figures
    vectors = [np.concatenate(outputs(each, faces)) for each in (network("mobilefacenet"), other)]
    embedding = evaluation("embedding")
    mean = vectors[0].mean(axis=0)
    assert told["raw_cosine"] == pytest.approx(embedding.cosines(*vectors).mean(), abs=1e-6)
    assert told["cosine"] == pytest.approx(embedding.cosines(*(v - mean for v in vectors)).mean(), abs=1e-6)
    near = [np.argmax(embedding.similar(v - v.mean(0)) - 2 * np.eye(len(v)), axis=1) for v in vectors]
    assert told["neighbours"] == pytest.approx((near[0] == near[1]).mean()) and told["neighbours"] < 1
    pairs = np.triu_indices(len(who), 1)
    same = (who[:, None] == who)[pairs]
    before, after = (embedding.similar(v)[pairs] for v in vectors)
    line = min(before, key=lambda v: max((before[~same] >= v).mean(), (before[same] < v).mean()))
    assert told["false_accepts"] == pytest.approx((after[~same] >= line).mean())
    assert told["false_rejects"] == pytest.approx((after[same] < line).mean())


def test_classes_of_photographs() -> None:
    source = evaluation("inputs")
    files, _ = source.labelled()
    images, other = source.photographs(files[200 : 200 + 2 * FEW]), off("efficientnet-lite0-imagenet", 0.05)
    name = "efficientnet-lite0-imagenet"
    a, b = (np.concatenate(outputs(each, images)) for each in (network(name), other))
    told = score("classification", name, images, other).figures
    assert told["top1"] == (a.argmax(1) == b.argmax(1)).mean() < 1
    assert told["top1"] <= told["top5"]


def test_enlarged_images() -> None:
    images = evaluation("inputs").small_and_large("look", side=32)[0][:2]
    other = off("esrgan-medium-x2", 0.02)
    a, b = (
        [np.clip(o[0] / 255, 0, 1) for o in outputs(each, images)]
        for each in (network("esrgan-medium-x2"), other)
    )
    told = score("image", "esrgan-medium-x2", images, other).figures
    assert told["psnr"] == pytest.approx(evaluation("superres").psnr(b, a), abs=1e-3)
    assert 0.5 < told["ssim"] < 1

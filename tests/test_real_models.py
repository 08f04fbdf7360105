"""Real trained models: exact rewrites, a budget with its accuracy, and models that stay as they are."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest

import graphopt
from tests.builders import counted_macs, interface, make_feeds, session
from tests.places import DATA

MODELS, INPUTS = DATA / "models", DATA / "inputs"

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="the real models are not there (../shared/data)")

CALIBRATION_IMAGES, TEST_IMAGES = 256, 1000
TOP1_LOSS = 0.025


@dataclass(frozen=True)
class Real:
    """A model and what is known of it.

    Attributes:
        file: its file name.
        macs: at ``shapes``.
        linear: number of Conv, ConvTranspose, Gemm and MatMul operators.
        applied: how often some exact rewrites apply.
        changes: whether exact rewrites are known to find something.
        shapes: sizes of its open dimensions for the count.
        sizes: of symbolic dimensions, by name, for the comparison.
        tolerance: largest difference relative to max|y|.
        images: whether to compare on photographs, since the outputs vanish on noise.
        options: of `graphopt.optimize`.
    """

    file: str
    macs: int
    linear: int
    applied: dict[str, int] = field(default_factory=dict)
    changes: bool = False
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    tolerance: float = 1e-4
    images: bool = False
    options: dict[str, Any] = field(default_factory=dict)


REAL = {
    "resnet20": Real("resnet20-cifar10.onnx", 40_551_040, 20),
    "resnet20-bn": Real("resnet20-cifar10-bn.onnx", 40_551_040, 20, {"fold_affine": 19}),
    "resnet56-bn": Real("resnet56-cifar10-bn.onnx", 125_485_696, 56, {"fold_affine": 55}),
    "squeezenet": Real("squeezenet1.1-imagenet.onnx", 349_151_936, 26),
    "squeezenet-fp16": Real("squeezenet1.1-imagenet-fp16-opset7.onnx", 349_151_936, 26, tolerance=5e-3),
    "ultraface": Real("ultraface-version-RFB-320.onnx", 100_418_560, 52),
    "ultraface-frozen": Real(
        "ultraface-version-RFB-320.onnx",
        100_418_560,
        52,
        changes=True,
        options={"freeze_initializers": True},
    ),
    "ppocrv3-det": Real(
        "ppocrv3-det.onnx",
        1_911_782_784,
        74,
        changes=True,
        shapes={"x": (1, 3, 640, 640)},
        sizes={"p2o.DynamicDimension.1": 160, "p2o.DynamicDimension.2": 192},
        images=True,
    ),
    "style-candy": Real("style-candy-winml.onnx", 20_353_167_360, 16),
    "dncnn": Real(
        "dncnn-gray25.onnx", 36_314_284_032, 17, shapes={"input": (1, 1, 256, 256)}, sizes={"H": 21, "W": 34}
    ),
    "mnist": Real("mnist-winml.onnx", 786_560, 3, changes=True),
}


def path_of(name: str) -> Path:
    return MODELS / REAL[name].file


@pytest.mark.parametrize("name", REAL)
def test_golden_mac_counts(name: str) -> None:
    real = REAL[name]
    scan = graphopt.scan(path_of(name), shapes=real.shapes or None)
    assert scan.totals.macs == real.macs
    assert scan.totals.flops == 2 * real.macs
    assert len(scan.rows) == real.linear
    assert sum(row.linear.macs or 0 for row in scan.rows) == real.macs
    assert math.isclose(sum(row.share or 0.0 for row in scan.rows), 1.0, rel_tol=1e-9)
    assert scan.unknown_dims == ()


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("dncnn", ("input[2]=H", "input[3]=W")),
        ("ppocrv3-det", ("x[2]=p2o.DynamicDimension.1", "x[3]=p2o.DynamicDimension.2")),
    ],
)
def test_open_sizes_are_told_apart_from_the_batch(name: str, unknown: tuple[str, ...]) -> None:
    scan = graphopt.scan(path_of(name))
    assert scan.totals.macs is None
    assert scan.unknown_dims == unknown


def test_shapes_that_only_a_run_can_tell_are_reported() -> None:
    """No shape of style-candy is inferred; all of its 16 convolutions are seen."""
    scan = graphopt.scan(path_of("style-candy"))
    seen = set(scan.observed_shapes)
    assert seen and all({row.linear.y} & seen for row in scan.rows)
    assert all(row.linear.macs is not None for row in scan.rows)


@pytest.mark.parametrize("name", REAL)
def test_exact_rewrites(name: str, tmp_path: Path) -> None:
    """Checked, rewritten, verified, saved, loaded, and compared with the original here once more."""
    real, source, saved = REAL[name], path_of(name), tmp_path / "out.onnx"
    result = graphopt.optimize(source, shapes=real.shapes or None, **real.options)
    result.save(saved)
    report = result.report
    before, after = onnx.load(source), onnx.load(saved)
    found = Counter(item.candidate.rewrite for item in report.applied)
    assert {name: found[name] for name in real.applied} == real.applied
    left = [node for node in after.graph.node if node.op_type == "BatchNormalization"]
    assert not (left and "fold_affine" in real.applied)
    assert report.passed and (report.changed or not real.changes)
    assert interface(after) == interface(before)
    assert report.before.macs == real.macs
    assert report.after.macs is not None and report.after.macs <= real.macs
    if report.changed:
        assert {"model", "model, optimised session"} <= {check.scope for check in report.checks}
        onnx.checker.check_model(after, full_check=True)
    else:
        assert saved.read_bytes() == source.read_bytes()
    compare(before, after, real)


@pytest.mark.parametrize("name", ["resnet20", "squeezenet", "squeezenet-fp16", "ultraface", "dncnn"])
def test_where_nothing_can_be_done_the_output_is_a_copy(name: str, tmp_path: Path) -> None:
    """Nothing folds, collapses or splits in these; other rewrites may find something."""
    saved, only = tmp_path / "out.onnx", ["fold_affine", "fold_pad", "collapse", "lossless_bottleneck"]
    result = graphopt.optimize(path_of(name), aim="macs", only=only)
    result.save(saved)
    assert not result and not result.report.changed and not result.report.applied
    assert saved.read_bytes() == path_of(name).read_bytes()


def _photographs(size: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Two photographs [2, 3, H, W] with ImageNet's mean and deviation taken out, cut to a size."""
    with np.load(INPUTS / "faces-320x240.npz") as file:
        images = np.stack([file[name] for name in file.files[:2]])[:, : size[0], : size[1]]
    return preprocessed(images)


def compare(before: onnx.ModelProto, after: onnx.ModelProto, real: Real) -> None:
    """The outputs of both at both levels of onnxruntime's optimisation; a byte copy only has to load."""
    if before == after:
        assert session(after, optimised=True).get_outputs()
        return
    reference = session(before)
    candidates = [session(after, optimised=optimised) for optimised in (False, True)]
    for number in (0, 1):
        sizes = {name: size + 30 * number for name, size in real.sizes.items()}  # and 2 more: `make_feeds`
        feeds = make_feeds(before, sizes, number)
        if real.images:
            feeds = {name: _photographs(array.shape[-2:]) for name, array in feeds.items()}
        expected = reference.run(None, feeds)
        for candidate in candidates:
            for a, b in zip(expected, candidate.run(None, feeds), strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype
                gap = np.abs(a.astype(np.float64) - b).max()
                assert gap <= real.tolerance * np.abs(a).max(), gap


def test_freezing_is_asked_for_by_name() -> None:
    """Ultraface's initializers are inputs too at IR 4: a caller may override them."""
    only = ["fold_affine", "lossless_bottleneck"]
    rejected = graphopt.optimize(path_of("ultraface"), aim="macs", only=only).report.rejected
    assert rejected and all("freeze_initializers" in item.reason for item in rejected)
    frozen = graphopt.optimize(path_of("ultraface"), aim="macs", only=only, freeze_initializers=True)
    assert not any("freeze_initializers" in item.reason for item in frozen.report.rejected)
    assert [value.name for value in frozen.model.graph.inputs] == ["input"]


@pytest.mark.parametrize("name", ["ppocrv3-det", "dncnn"])
def test_open_dimensions_stay_open(name: str, tmp_path: Path) -> None:
    saved = tmp_path / "out.onnx"
    graphopt.optimize(path_of(name)).save(saved)
    (shape,) = [value.shape for value in ort.InferenceSession(saved).get_inputs()]
    assert [isinstance(size, str) for size in shape[2:]] == [True, True]


# ---------------------------------------------------------------- a budget


def preprocessed(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Images [N, H, W, 3] with ImageNet's mean and deviation taken out, as [N, 3, H, W]."""
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    return np.ascontiguousarray(((images / 255.0 - mean) / std).transpose(0, 3, 1, 2), np.float32)


def top1(model: Path, images: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> float:
    running = ort.InferenceSession(model)
    (scores,) = running.run(None, {"input": images})
    return float((scores.argmax(axis=1) == labels).mean())


def test_resnet20_keeps_its_accuracy_at_0_7_of_the_macs(tmp_path: Path) -> None:
    """At most 2.5 points of top-1 are lost on test images; benchmarks.accuracy tries more."""
    source, saved = path_of("resnet20-bn"), tmp_path / "cheaper.onnx"
    with np.load(INPUTS / "cifar10-calibration.npz") as file:
        calibration = preprocessed(file["images"][:CALIBRATION_IMAGES])
    with np.load(INPUTS / "cifar10-test.npz") as file:
        images = preprocessed(file["images"][:TEST_IMAGES])
        labels = file["labels"][:TEST_IMAGES]
    before = top1(source, images, labels)
    assert before > 0.91
    result = graphopt.optimize(source, {"macs": 0.7}, calibration, metric="classification")
    result.save(saved)
    report = result.report
    assert report.before.macs == 40_551_040 and report.after.macs is not None
    assert report.after.macs <= 0.7 * report.before.macs
    after = onnx.load(saved)
    assert counted_macs(after, make_feeds(after)) == report.after.macs
    assert not report.unmeasured and report.quality is not None
    assert report.quality.samples == CALIBRATION_IMAGES // 4
    assert report.quality.agreement is not None and report.quality.agreement > 0.9
    assert before - top1(saved, images, labels) <= TOP1_LOSS

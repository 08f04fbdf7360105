"""Trains the sample models and writes their ONNX files and data.

    python models/train.py --model inception
    python models/train.py --model resnet

Both classify scikit-learn's digits (8x8 gray images, ten classes), enlarged to 32x32. `InceptionDigits` puts
3x3 and 5x5 convolutions side by side as Inception v1 does, but without the 1x1 reductions in front of them,
so there is a bottleneck left to find. `ResNetDigits` is a plain residual network.

BatchNormalization is left unfolded in the files. Needs PyTorch, scikit-learn, onnx and onnxruntime. Seeded,
and deterministic on one kind of machine with one PyTorch version and `THREADS` threads.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
SEED = 20
THREADS = 2
IMAGE_SIZE = 32
MAX_SHIFT = 3  # pixels of the enlarged image
BATCH_SIZE = 64
CALIBRATION_IMAGES = 400
TEST_IMAGES = 400
TOLERANCE = 1e-4  # largest |PyTorch - onnxruntime| allowed on the logits


@dataclass(frozen=True)
class Images:
    """Inputs [N, 1, 32, 32] float32 in [-1, 1] and labels [N] int64."""

    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How one model is trained: SGD with Nesterov momentum 0.9 under a one-cycle learning rate."""

    epochs: int
    peak_learning_rate: float
    weight_decay: float


class ConvUnit(nn.Module):
    """Convolution without bias, BatchNormalization, and Relu unless `relu` is false; odd kernels only."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        return self.relu(self.bn(self.conv(x)))


class InceptionBlock(nn.Module):
    """Four parallel branches, concatenated: 1x1, 3x3, 5x5, and max pooling followed by 1x1."""

    def __init__(self, in_channels: int, conv1x1: int, conv3x3: int, conv5x5: int, pool: int) -> None:
        super().__init__()
        self.conv1x1 = ConvUnit(in_channels, conv1x1, 1)
        self.conv3x3 = ConvUnit(in_channels, conv3x3, 3)
        self.conv5x5 = ConvUnit(in_channels, conv5x5, 5)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.pool_project = ConvUnit(in_channels, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, conv1x1 + conv3x3 + conv5x5 + pool, H, W]."""
        branches = [self.conv1x1(x), self.conv3x3(x), self.conv5x5(x), self.pool_project(self.pool(x))]
        return torch.cat(branches, dim=1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        same_shape = in_channels == out_channels and stride == 1
        self.conv1 = ConvUnit(in_channels, out_channels, 3, stride)
        self.conv2 = ConvUnit(out_channels, out_channels, 3, relu=False)
        self.shortcut = (
            nn.Identity() if same_shape else ConvUnit(in_channels, out_channels, 1, stride, relu=False)
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        return self.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Head(nn.Module):
    """Global average pooling and a linear classifier of ten classes."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(in_channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in_channels, H, W] to logits [N, 10]."""
        return self.linear(self.flatten(self.pool(x)))


class InceptionDigits(nn.Sequential):
    """Stem, three Inception blocks at 32x32, 16x16 and 8x8, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(1, 64, 3)
        self.block1 = InceptionBlock(64, conv1x1=8, conv3x3=24, conv5x5=48, pool=8)
        self.pool1 = nn.MaxPool2d(2)
        self.block2 = InceptionBlock(88, conv1x1=16, conv3x3=32, conv5x5=48, pool=16)
        self.pool2 = nn.MaxPool2d(2)
        self.block3 = InceptionBlock(112, conv1x1=16, conv3x3=48, conv5x5=48, pool=16)
        self.head = Head(128)


class ResNetDigits(nn.Sequential):
    """Stem, two residual blocks at 16x16 and two at 8x8, head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvUnit(1, 32, 3)
        self.pool = nn.MaxPool2d(2)
        self.block1 = ResidualBlock(32, 32, stride=1)
        self.block2 = ResidualBlock(32, 32, stride=1)
        self.block3 = ResidualBlock(32, 64, stride=2)
        self.block4 = ResidualBlock(64, 64, stride=1)
        self.head = Head(64)


MODELS: dict[str, tuple[type[nn.Module], Recipe]] = {
    "inception": (InceptionDigits, Recipe(epochs=30, peak_learning_rate=0.1, weight_decay=1e-3)),
    "resnet": (ResNetDigits, Recipe(epochs=30, peak_learning_rate=0.1, weight_decay=1e-3)),
}


def preprocess(gray: np.ndarray) -> Tensor:
    """Gray levels 0..16, [N, 8, 8], to inputs [N, 1, 32, 32] in [-1, 1], enlarged bilinearly."""
    inputs = torch.from_numpy(gray).float().unsqueeze(1) / 8 - 1
    return functional.interpolate(inputs, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)


def split_digits() -> tuple[Images, Images, Images]:
    """The digits as (train, calibration, test): disjoint, stratified by label, always the same."""
    digits = load_digits()
    rest, test = train_test_split(
        np.arange(len(digits.target)), test_size=TEST_IMAGES, stratify=digits.target, random_state=SEED
    )
    train, calibration = train_test_split(
        rest, test_size=CALIBRATION_IMAGES, stratify=digits.target[rest], random_state=SEED
    )
    inputs, labels = preprocess(digits.images), torch.from_numpy(digits.target).long()
    train, calibration, test = (Images(inputs[rows], labels[rows]) for rows in (train, calibration, test))
    return train, calibration, test


def save_data(calibration: Images, test: Images) -> None:
    """Writes the calibration inputs, without labels, and the test inputs with theirs."""
    np.savez_compressed(HERE / "digits-calibration.npz", input=calibration.inputs.numpy())
    np.savez_compressed(HERE / "digits-test.npz", input=test.inputs.numpy(), label=test.labels.numpy())


def shift_randomly(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Moves each image [N, 1, H, W] by up to `MAX_SHIFT` pixels each way; background (-1) fills in."""
    count, _, height, width = inputs.shape
    padded = functional.pad(inputs, [MAX_SHIFT] * 4, value=-1.0)
    top, left = torch.randint(0, 2 * MAX_SHIFT + 1, (2, count, 1), generator=generator)
    rows = (top + torch.arange(height)).unsqueeze(2)
    columns = (left + torch.arange(width)).unsqueeze(1)
    image = torch.arange(count).reshape(-1, 1, 1)
    return padded[image, 0, rows, columns].unsqueeze(1)


def fit(model: nn.Module, train: Images, recipe: Recipe) -> None:
    """Trains `model` in place and leaves it in evaluation mode."""
    generator = torch.Generator().manual_seed(SEED)
    steps_per_epoch = len(train.labels) // BATCH_SIZE
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.peak_learning_rate, epochs=recipe.epochs, steps_per_epoch=steps_per_epoch
    )
    model.train()
    for epoch in range(recipe.epochs):
        started, total_loss = time.perf_counter(), 0.0
        order = torch.randperm(len(train.labels), generator=generator)
        for rows in order[: steps_per_epoch * BATCH_SIZE].split(BATCH_SIZE):
            logits = model(shift_randomly(train.inputs[rows], generator))
            loss = functional.cross_entropy(logits, train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total_loss += loss.item()
        seconds = time.perf_counter() - started
        print(
            f"epoch {epoch + 1}/{recipe.epochs}: loss {total_loss / steps_per_epoch:.4f}, {seconds:.1f} s",
            flush=True,
        )
    model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Writes `model` with its BatchNormalization nodes kept: opset 17, symbolic batch, `input` to `logits`.

    `TrainingMode.PRESERVE` is what keeps them: the exporter folds them into the convolutions under `EVAL`.
    """
    torch.onnx.export(
        model,
        (torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE),),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=17,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )


def run_onnx(path: Path, inputs: Tensor) -> np.ndarray:
    """Logits [N, 10] of the written file for inputs [N, 1, 32, 32], by onnxruntime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"input": inputs.numpy()})[0])


def check_file(model: nn.Module, path: Path, inputs: Tensor) -> None:
    """Fails unless the file is valid, keeps BatchNormalization and agrees with PyTorch to `TOLERANCE`."""
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    if not any(node.op_type == "BatchNormalization" for node in proto.graph.node):
        raise SystemExit(f"{path}: the exporter folded BatchNormalization away")
    with torch.no_grad():
        difference = float(np.abs(model(inputs).numpy() - run_onnx(path, inputs)).max())
    print(f"largest |PyTorch - onnxruntime| on the logits: {difference:.1e}")
    if not difference < TOLERANCE:
        raise SystemExit(f"{path}: differs from PyTorch by {difference:.1e}, allowed {TOLERANCE:.0e}")


def main() -> None:
    """Trains, exports and checks the model named on the command line."""
    parser = argparse.ArgumentParser(description="Train a sample model on the digits and write it as ONNX.")
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    name: str = parser.parse_args().model

    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)

    train, calibration, test = split_digits()
    save_data(calibration, test)
    architecture, recipe = MODELS[name]
    model = architecture()
    fit(model, train, recipe)

    path = HERE / f"{name}-digits.onnx"
    export(model, path)
    check_file(model, path, test.inputs)
    print(f"{path.name}: {path.stat().st_size} bytes")
    for split, images in {"train": train, "calibration": calibration, "test": test}.items():
        correct = int((run_onnx(path, images.inputs).argmax(axis=1) == images.labels.numpy()).sum())
        print(f"{split}: {correct} of {len(images.labels)} right ({correct / len(images.labels):.2%})")


if __name__ == "__main__":
    main()

"""Network in network on a sample classifier: insert pointwise layers, train further, compare.

    python models/widen.py

`graphopt.optimize(only=["insert_pointwise"])` puts a 1x1 convolution and a PRelu behind the first convolution
of each residual block of `resnet-digits.onnx`; the network then computes what it did. From there PyTorch
trains all its weights, and, for a fair comparison, those of the network without the new layers for as long.
Needs what `train.py` needs. Seeded; takes a few minutes.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional
from train import BATCH_SIZE, SEED, THREADS, Images, shift_randomly, split_digits

import graphopt

MODEL = Path(__file__).parent / "resnet-digits.onnx"
BEHIND = "/block*/conv1/conv/Conv"
EPOCHS = 12
PEAK_LEARNING_RATE = 0.004
FROZEN = 2  # BatchNormalization keeps its running mean and variance, its last two inputs


class OnnxNetwork(nn.Module):
    """An ONNX classifier as a PyTorch module: float initializers are parameters, operators run one by one."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.model = model
        frozen = {
            n
            for node in model.graph.node
            if node.op_type == "BatchNormalization"
            for n in node.input[-FROZEN:]
        }
        arrays = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
        self.names = list(arrays)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.from_numpy(array), requires_grad=name not in frozen)
            for name, array in arrays.items()
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, 32, 32] to logits [N, 10]."""
        values = {self.model.graph.input[0].name: x, **dict(zip(self.names, self.weights, strict=True))}
        for node in self.model.graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = _operator(node.op_type, [values[n] for n in node.input], attributes)
        return values[self.model.graph.output[0].name]

    def onnx(self) -> onnx.ModelProto:
        """The ONNX model with the weights as they are now."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for tensor, weight in zip(model.graph.initializer, self.weights, strict=True):
            tensor.CopyFrom(numpy_helper.from_array(weight.detach().numpy(), tensor.name))
        return model


def _operator(kind: str, inputs: list[Tensor], attributes: dict[str, object]) -> Tensor:
    """One of the operators that the sample classifiers have."""
    x, *rest = inputs
    if kind == "Conv":
        pads = attributes.get("pads", [0, 0, 0, 0])
        bias = rest[1] if len(rest) > 1 else None
        return functional.conv2d(x, rest[0], bias, attributes.get("strides", [1, 1]), pads[:2])
    if kind == "BatchNormalization":
        gamma, beta, mean, variance = rest
        return functional.batch_norm(x, mean, variance, gamma, beta, eps=attributes.get("epsilon", 1e-5))
    if kind == "PRelu":
        return functional.prelu(x, rest[0].reshape(-1))
    if kind == "MaxPool":
        return functional.max_pool2d(x, attributes["kernel_shape"], attributes.get("strides"))
    if kind == "Gemm":
        return functional.linear(x, rest[0], rest[1])
    plain = {
        "Relu": functional.relu,
        "Identity": lambda v: v,
        "Add": lambda v: v + rest[0],
        "GlobalAveragePool": lambda v: v.mean((2, 3), keepdim=True),
        "Flatten": lambda v: v.flatten(1),
    }
    return plain[kind](x)


def train(network: OnnxNetwork, images: Images) -> None:
    """SGD with Nesterov momentum under a one-cycle learning rate, on randomly shifted images."""
    generator = torch.Generator().manual_seed(SEED)
    steps = -(-len(images.labels) // BATCH_SIZE) * EPOCHS
    trained = [weight for weight in network.weights if weight.requires_grad]
    optimiser = torch.optim.SGD(trained, PEAK_LEARNING_RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_LEARNING_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images.labels), generator=generator).split(BATCH_SIZE):
            logits = network(shift_randomly(images.inputs[chosen], generator))
            optimiser.zero_grad()
            functional.cross_entropy(logits, images.labels[chosen]).backward()
            optimiser.step()
            schedule.step()


def accuracy(model: onnx.ModelProto, images: Images) -> str:
    """Right answers in onnxruntime, and the mean cross entropy, which tells more on few images."""
    import onnxruntime

    running = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = running.run(None, {model.graph.input[0].name: images.inputs.numpy()})[0]
    right = int((logits.argmax(1) == images.labels.numpy()).sum())
    loss = functional.cross_entropy(torch.from_numpy(np.asarray(logits)), images.labels)
    return (
        f"{right} of {len(images.labels)} ({right / len(images.labels):.2%}), cross entropy {float(loss):.4f}"
    )


def main() -> None:
    """Inserts, trains, and prints the accuracy on the test images."""
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    images, _, test = split_digits()
    result = graphopt.optimize(MODEL, only=["insert_pointwise"], at=[BEHIND])
    before, after = result.report.before.macs, result.report.after.macs
    print(f"MACs {before:,} → {after:,}; {result.report.notes[0]}")
    for name, model in (("as it is", onnx.load(MODEL)), ("widened", ir.to_proto(result.model))):
        network, start = OnnxNetwork(model), time.perf_counter()
        print(f"{name}, before training: {accuracy(model, test)}")
        train(network, images)
        print(f"{name}, after {EPOCHS} epochs: {accuracy(network.onnx(), test)}")
        seconds = time.perf_counter() - start
        print(f"  on the training images: {accuracy(network.onnx(), images)}; {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()

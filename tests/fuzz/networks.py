"""Random small networks under budgets: the result runs at every size, its report says what is measured."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import graphopt
from graphopt.calibration.inputs import load
from graphopt.errors import BudgetError, GraphOptError, InputError
from graphopt.report.results import Result
from graphopt.types import Exactness
from tests.builders import Array, Feeds, counted_macs, session
from tests.fuzz import graphs
from tests.fuzz.checking import SECONDS, Finding, HangError, interface, limited, place
from tests.fuzz.draft import Draft
from tests.fuzz.operators import activation, affine, conv, gemm, normalised, pool, resize, transposed

FORMS = ("bottleneck", "separable", "depthwise_separable", "inverted_bottleneck", "select_channels")
SAMPLES = 12
"""Calibration inputs: enough for a fit of so few channels, few enough that a network takes a second."""
DECIBELS = 0.05
"""By so many dB a reported SQNR may be off: the same squares are summed in another order and precision."""
RELATIVE = 0.01
"""By so much of itself a reported error of a layer may be off, for the same reason."""


def network(seed: int) -> tuple[Draft, str]:
    """A network of some blocks, and its output."""
    dice = random.Random(seed)
    opset = dice.choice((11, 13, 15, 17, 18, 21))
    draft = Draft(seed, opset, "float16" if dice.random() < 0.05 else "float32")
    axes = dice.choice((1, 2, 2, 2, 2, 3))
    sizes = [1, dice.choice((6, 8, 12)), *[dice.randint(6, 11) if axes < 3 else 5] * axes]
    shape: list[int | str | None] = list(sizes)
    if dice.random() < 0.8:
        shape[0] = "N"
    if dice.random() < 0.6:
        shape[2:] = graphs.SYMBOLS[:axes]
    x = draft.feed("x", shape, sizes)
    for _ in range(dice.randint(1, 3)):
        with draft.attempt():
            out = dice.choice((8, 12, 16))
            linear = transposed if dice.random() < 0.15 else conv
            size = dice.choice((1, 3, 3, 3, 5)) if axes < 3 else dice.choice((1, 3))
            y = linear(draft, x, out, [size] * axes)
            y = normalised(draft, y) if dice.random() < 0.4 else y
            if dice.random() < 0.8:
                y = activation(
                    draft, y, dice.choice(("Relu", "Relu", "Sigmoid", "LeakyRelu", "HardSigmoid", "Clip"))
                )
            if draft.shape(y) == draft.shape(x) and dice.random() < 0.4:
                y = draft.op("Add", y, x)
            x = y
        with draft.attempt():
            if dice.random() < 0.3:
                y = dice.choice((pool, resize, affine))(draft, x)
                draft.need(draft.rank(y) == axes + 2)
                x = y
    if dice.random() < 0.4:
        with draft.attempt():
            pooled = draft.op("Flatten", draft.op("GlobalAveragePool", x))
            x = gemm(draft, pooled, dice.choice((3, 5)))
    return draft, x


def check(seed: int) -> Finding:
    """What came of the network of a seed under a random budget."""
    dice = random.Random(seed ^ 0xB06E7)
    draft, last = network(seed)
    if not any(node.op_type in ("Conv", "ConvTranspose") for node in draft.nodes):
        return Finding("unrunnable")
    model = draft.finished([last])
    nominal = draft.shape("x")
    calibration = {"x": draft.normal(SAMPLES, *nominal[1:]).astype(draft.dtype)}
    if not _runs(model, calibration["x"], nominal[0]):
        return Finding("unrunnable")
    options: dict[str, Any] = {"budget": {"macs": dice.choice((0.4, 0.6, 0.8))}, "seed": dice.randint(0, 3)}
    if dice.random() < 0.7:
        options["only"] = [dice.choice(FORMS)]
    given = dice.random() < 0.75
    if given:
        options["calibration"] = calibration
    elif dice.random() < 0.7:
        options["shapes"] = {"x": nominal}
    try:
        with limited(2 * SECONDS):
            result = graphopt.optimize(model, **options)
        missed = ""
    except HangError:
        return Finding("hang", f"no end within {2 * SECONDS} s, {_options(options)}")
    except BudgetError as error:
        result, missed = error.result, str(error)
    except InputError as error:
        if "no output of the model changes" in str(error) and _is_still(model, calibration):
            return Finding("missed", str(error))
        return Finding("refused" if given or "shapes" in options else "sizes", str(error))
    except (GraphOptError, Exception) as error:
        return Finding("internal", f"{place(error)}, {_options(options)}")
    found = compare(model, result, calibration if given else None, options, seed)
    if found is None:
        applied = dict(Counter(item.candidate.rewrite for item in result.report.applied))
        return Finding("missed" if missed else "right", missed, applied=applied)
    return Finding(found.kind, f"{found.detail}, {_options(options)}")


def _runs(model: onnx.ModelProto, inputs: Array, batch: int) -> bool:
    """Whether the original runs on one batch, and on all samples at once where their number is open."""
    try:
        running = session(model)
        running.run(None, {"x": inputs[:batch]})
        if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
            running.run(None, {"x": inputs})
    except Exception:  # whatever onnxruntime raises
        return False
    return True


def _options(options: dict[str, Any]) -> str:
    return f"{ {key: value for key, value in options.items() if key != 'calibration'} }"


def compare(
    model: onnx.ModelProto, result: Result, calibration: Feeds | None, options: dict[str, Any], seed: int
) -> Finding | None:
    """What is wrong with the result of a budget; None where nothing is.

    Args:
        model: the original.
        result: what came of it.
        calibration: the inputs that it was made with; None where there were none.
        options: of the run.
        seed: of the inputs that it is run on.
    """
    after = ir.to_proto(result.model)
    if list(interface(model, []).items()) != list(interface(after, []).items()):
        return Finding("interface", "another interface")
    before = session(model)
    try:
        rewritten = session(after)
    except Exception as error:  # whatever onnxruntime raises
        return Finding("fails", str(error)[:200])
    for feed in graphs.feeds(model, seed):
        try:
            expected = before.run(None, feed)
        except Exception:  # not at this size
            continue
        sizes = {name: list(array.shape) for name, array in feed.items()}
        try:
            outputs = rewritten.run(None, feed)
        except Exception as error:
            return Finding("fails", f"at {sizes}: {str(error)[:200]}")
        for one, two in zip(expected, outputs, strict=True):
            if one.shape != two.shape or one.dtype != two.dtype:
                return Finding(
                    "wrong", f"at {sizes}: {two.dtype}{list(two.shape)} for {one.dtype}{list(one.shape)}"
                )
    if calibration is None:
        odd = result.report.quality is not None
        return Finding("misreported", "a quality without inputs to measure it on") if odd else None
    return _misreported(model, after, result, calibration, options)


def _misreported(
    model: onnx.ModelProto,
    after: onnx.ModelProto,
    result: Result,
    calibration: Feeds,
    options: dict[str, Any],
) -> Finding | None:
    """What the report says that is not so; None where all is."""
    report = result.report
    split = load(calibration, ir.from_proto(model), options["seed"])
    held = list(split.batches(split.held_out))
    pairs = [
        (session(model, optimised=True).run(None, f), session(after, optimised=True).run(None, f))
        for f in held
    ]
    made = {node.output[0]: node.op_type for node in model.graph.node}
    names = [output.name for output in model.graph.output]
    measured = {
        name: sqnr([(one[i], two[i]) for one, two in pairs], alike=made.get(name) in ("Sigmoid", "Softmax"))
        for i, name in enumerate(names)
    }
    if report.quality is None or report.quality.sqnr is None:
        return Finding("misreported", "no quality") if report.changed else None
    said = report.quality.groups or {names[0]: report.quality.sqnr}
    if report.quality.sqnr != min(said.values()):
        return Finding("misreported", f"SQNR {report.quality.sqnr:.3f} dB is not the lowest of {said}")
    for name in names:
        if name not in said or not _near(said[name], measured[name]):
            told = said.get(name, math.nan)
            return Finding("misreported", f"SQNR {told:.3f} dB of {name}, measured {measured[name]:.3f} dB")
    feed = split.held_out[: split.batch if split.fixed else 1].joined()
    for counted, said in (
        (counted_macs(model, feed), report.before.macs),
        (counted_macs(after, feed), report.after.macs),
    ):
        if counted != said:
            return Finding("misreported", f"{said} MACs, counted {counted}")
    fitted = [item for item in report.applied if item.exactness is Exactness.APPROXIMATE]
    if len(fitted) == 1 and fitted[0].error_measured is not None:
        return _layer(model, after, fitted[0], held, options)
    return None


def _layer(
    model: onnx.ModelProto, after: onnx.ModelProto, fitted: Any, held: list[Feeds], options: dict[str, Any]
) -> Finding | None:
    """Whether the only fitted layer has another error than reported, where it can be seen from outside."""
    exact = model  # where one form alone takes part, no exact rewrite does
    if "only" not in options:
        exact = ir.to_proto(graphopt.optimize(model, shapes=_shapes(held)).model)
    made = [node.output[0] for node in exact.graph.node if node.name in fitted.candidate.site.nodes]
    seen = {name for node in after.graph.node for name in node.output}
    if not made or made[-1] not in seen:
        return None
    both = []
    for each in (exact, after):
        probe = onnx.ModelProto()
        probe.CopyFrom(each)
        probe.graph.output.append(onnx.ValueInfoProto(name=made[-1]))
        running = session(probe, optimised=True)  # as errors are measured; float16 rounds otherwise else
        both.append(np.concatenate([running.run([made[-1]], feed)[0] for feed in held]).astype(np.float64))
    wanted, got = both
    if wanted.shape != got.shape:
        return None
    axes = (0, *range(2, wanted.ndim))
    spread = float(((wanted - wanted.mean(axis=axes, keepdims=True)) ** 2).sum())
    measured, said = float(((wanted - got) ** 2).sum()) / spread if spread else 0.0, fitted.error_measured
    if abs(measured - said) <= RELATIVE * max(measured, said) + 1e-9:
        return None
    return Finding("misreported", f"error {said:.4g} of {made[-1]}, measured {measured:.4g}")


def _shapes(held: list[Feeds]) -> dict[str, tuple[int, ...]]:
    return {name: (1, *array.shape[1:]) for name, array in held[0].items()}


def sqnr(pairs: list[tuple[Array, Array]], *, alike: bool = False) -> float:
    """The mean over channels of squared errors over variances, in dB, over pairs of arrays [N, C, …].

    Args:
        pairs: what two models make of batches of inputs.
        alike: whether all channels are compared with what varies in them on average, as those of a Sigmoid.
    """
    ones = [np.asarray(one, np.float64) for one, _ in pairs]
    gaps = [one - np.asarray(two, np.float64) for one, (_, two) in zip(ones, pairs, strict=True)]
    if ones[0].ndim < 2:
        ones, gaps = ([each.reshape(len(each), 1) for each in arrays] for arrays in (ones, gaps))
    exact, gap = np.concatenate(ones), np.concatenate(gaps)
    places = tuple(range(2, exact.ndim))
    if len(exact) > 1:
        variance = exact.var(axis=0, ddof=1).mean(axis=tuple(axis - 1 for axis in places))
    else:
        variance = exact.var(axis=(0, *places))
    if alike:
        variance = np.full(len(variance), variance.mean())
    still = variance <= 1e-10 * variance.max()
    if still.any() and not still.all():
        variance = np.where(still, variance[~still].mean(), variance)
    noise = (gap**2).mean(axis=(0, *places))
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(noise > 0, noise / variance, 0.0).mean()
    return math.inf if error == 0 else -10 * math.log10(error) if math.isfinite(error) else -math.inf


def _is_still(model: onnx.ModelProto, calibration: Feeds) -> bool:
    """Whether a model makes the same of every input."""
    running = session(model, optimised=True)
    feeds = ({name: each[i : i + 1] for name, each in calibration.items()} for i in range(SAMPLES))
    first, *others = (running.run(None, feed) for feed in feeds)
    return all(np.array_equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def _near(said: float, measured: float) -> bool:
    """Whether two figures in dB are one; beyond what float32 resolves there is no telling."""
    return said == measured or abs(said - measured) <= DECIBELS or min(said, measured) > 120

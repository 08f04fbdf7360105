"""Why thresholds stand where they do: each is tried below and above its value, and what follows is shown.

    python -m benchmarks.thresholds [NAME ...]

NAME is a constant, or the part before it; all without one. What an experiment decides by is in its heading.
Seconds are of the processor, with one thread for NumPy; figures in dB do not depend on the machine.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

import graphopt
from graphopt.analysis.linear import Linear
from graphopt.analysis.snapshot import Analysis
from graphopt.calibration import inputs, statistics
from graphopt.model.io import load
from graphopt.numerics.lowrank import canonical_polyadic, exact_factors, separable, tucker_fit
from graphopt.numerics.lowrank.moments import Moments, relative_error
from graphopt.report.results import Report
from graphopt.runtime import latency, operator_times, session
from graphopt.runtime.session import Feeds
from graphopt.verification import values as computed
from models import architectures
from models.architectures import Graph

MODELS = Path(__file__).parent.parent / "models"
FITTED_ON = 128
"""Inputs of the small experiments with a network: few, so that bounds on small samples show."""
BUDGET = 0.5
"""Part of the MACs that they leave."""

ARCHITECTURES = (
    *("resnet_v1", "densenet", "repvgg", "yolo_neck", "text_detection_head", "unet_decoder"),
    *("preactivation_resnet", "slimmed", "sesr"),
)

Values = tuple[Any, ...]

NETWORK: dict[str, Values] = {
    "numerics.lowrank.tucker_fit.RIDGE": (1e-7, 1e-3),
    "numerics.lowrank.tucker_fit.REFIT_RIDGE": (1e-6, 1e-2),
    "compression.sequential_fit.CAUTION": (((0.0, 1.0),), ((0.0, 1.0), (1.0, 0.0))),
    "compression.sequential_fit.ENOUGH": (10, 160),
    "compression.sequential_fit.ENOUGH_INPUTS": (16,),
    "compression.sequential_fit.DRAWN": (0.0, 1.0),
    "compression.sequential_fit.BATCHES": (2, 16),
    "calibration.statistics.FITTED_ROWS": (24, 384),
    "calibration.statistics.PLANNED_ROWS": (6, 96),
    "compression.sensitivity.LEVELS": ((0.002, 0.01, 0.05), (0.05, 0.25, 0.6), (0.05,)),
    "planning.damage.MOST_SLOPE": (1.0, 4.0),
    "planning.damage.LEAST_SLOPE": (0.0, 1.0),
    "planning.damage.SMALL_SLOPE": (0.7, 1.5),
    "compression.curvature.DAMPING": (0.01, 1.0),
    "compression.curvature.FLOOR": (1e-7, 1e-3),
    "compression.curvature.CURVATURE_INPUTS": (8, 32),
    "pipeline.networks.fit_data.PROBED_ON": (0.0, 0.1, 0.5),
    "pipeline.networks.fit_data.PLANNED_ON": (12, 24, 48),
    "rewrites.factoring.fitted.RANK_STEPS": (8, 32),
    "calibration.statistics.POSITIONS": (4, 64),
    "calibration.inputs.ONE_HELD_OUT_OF": (2, 8),
}
"""Constants that decide what a network at a budget loses, and the values tried besides their own."""

FEW: dict[str, Values] = {
    "pipeline.approximate.FACTOR": (1.3, 4.0),
    "pipeline.approximate.REPLANS": (1, 2, 20),
}
"""Constants that count where measured errors are not the predicted ones, as with few inputs they might be."""

SYNTHETIC: dict[str, Values] = {
    "calibration.synthetic.SLOPE": (0.0, 1.0, 2.0),
    "calibration.synthetic.SHARED": (0.0, 0.95),
    "calibration.synthetic.SYNTHETIC_INPUTS": (32, 64),
}
"""Constants of the inputs that are made where none are given (of one channel here, so SHARED has no say)."""

EXACT: dict[str, Values] = {
    "pipeline.exact_rounds.MAX_ROUNDS": (1, 3),
    "planning.selection.MUCH": (0.005, 0.5),
    "runtime.subgraph.SMALL_MAP": (16, 1000),
    "analysis.evaluation.SMALL_SIZE": (16, 1_000_000),
    "rewrites.patterns.resized.MIXING_PASSES": (1, 64),
}
"""Constants that decide what exact rewrites do."""


def in_a_row() -> onnx.ModelProto:
    """Forty 1x1 convolutions with nothing between them."""
    g, y = Graph(8, 16), "x"
    for _ in range(40):
        y = g.conv(y, 8)
    return g.model(y)


def between_transposes() -> onnx.ModelProto:
    """Two hundred elementwise operators in NHWC."""
    g = Graph(8, 16)
    y = g.op("Transpose", ["x"], perm=[0, 2, 3, 1])
    for kind in ("Sigmoid", "Tanh") * 100:
        y = g.op(kind, [y])
    return g.model(g.op("Transpose", [y], perm=[0, 3, 1, 2]))


def biased_border() -> onnx.ModelProto:
    """A 1x1 with a bias before a padded 3x3: of the 9 zones of the border's map each is stored once."""
    g = Graph(8, 32)
    return g.model(g.conv(g.conv("x", 32, bias=True), 8, 3))


def in_blocks() -> onnx.ModelProto:
    """A MatMul of 32 blocks of 32 channels."""
    g = Graph(16, 32)
    weight = np.kron(np.eye(32), np.random.default_rng(0).standard_normal((32, 32)))
    y = g.op("Reshape", ["x", g.weight(np.array([16, 1024]))])
    return g.model(g.op("MatMul", [y, g.weight(weight.astype(np.float32))]))


def of_a_constant() -> onnx.ModelProto:
    """A convolution of a constant: 4,096 elements of its output take the place of 1,600."""
    g = Graph(16, 16)
    constant = g.weight(np.random.default_rng(0).standard_normal((1, 4, 16, 16)).astype(np.float32))
    g.channels[constant] = 4
    return g.model(g.add("x", g.conv(constant, 16, 3)))


LIMIT: tuple[tuple[str, Values, Callable[[], onnx.ModelProto]], ...] = (
    ("rewrites.collapsing.collapse.LONGEST", (2, 4, 64), in_a_row),
    ("pipeline.exact_rounds.MAX_ROUNDS", (1, 3), in_a_row),
    ("rewrites.converting.cancel_transpose.LARGEST_REGION", (4, 1000), between_transposes),
    ("rewrites.patterns.border_map.MOST_ZONED", (1, 1000), biased_border),
    ("rewrites.pruning.block_diagonal.MOST_PARTS", (2, 64), in_blocks),
    ("rewrites.folding.fold_constant.STORED_ANYWAY", (0, 1_000_000), of_a_constant),
)
"""Constants that bound an exact rewrite, each with a model in which it does."""

CLOCK: dict[str, Values] = {
    "runtime.operator_times.FORM_SECONDS": (0.003, 0.3),
    "runtime.operator_times.RUNS": (1, 50),
}
"""Constants of the clock that times operators."""

LAYER: dict[str, Values] = {
    "numerics.lowrank.canonical_polyadic.FIT_STEPS": ((5, 12, 20), (6, 6, 6), (80, 200, 320)),
    "numerics.lowrank.canonical_polyadic.STEPS_DOWN": (2, 32),
    "numerics.lowrank.canonical_polyadic.OVERLAP": (1e-6, 1e-2),
    "numerics.lowrank.canonical_polyadic.WEAK": (1e-5, 1e-1),
    "numerics.lowrank.canonical_polyadic.AT_ONCE": (2, 32),
    "numerics.lowrank.lbfgs.MEMORY": (3, 30),
    "numerics.lowrank.lbfgs.SHORTEN": (0.1, 0.7),
    "numerics.lowrank.lbfgs.SHORTER": (2, 20),
    "numerics.lowrank.lbfgs.GAIN": (1e-6, 1e-2),
    "numerics.lowrank.lbfgs.STILL": (1e-3, 1e-6),
    "numerics.lowrank.linalg.CONJUGATE_GRADIENT_STEPS": (2, 32),
    "numerics.lowrank.separable.QUICK": (0,),
}
"""Constants of fits: what one layer loses on the inputs that it was not fitted to."""

TRIPLE: dict[str, Values] = {
    "rewrites.factoring.inverted_bottleneck.RANKS": (5, 20),
    "rewrites.factoring.inverted_bottleneck.MOST": (0.6, 1.0),
}
"""Constants of the inverted bottleneck alone."""

QUALITY: dict[str, Values] = {
    "pipeline.approximate.CHEAPEST": (0.0, 0.3),
    "pipeline.approximate.NARROW": (0.005, 0.05),
}
"""Constants of the search for the cheapest network."""

LATENCY: dict[str, Values] = {
    "pipeline.approximate.FITTED": (1, 6),
    "pipeline.approximate.DRAFTS": (2, 16),
    "pipeline.approximate.STEP": (1.1, 3.0),
}
"""Constants of the search for a network that is as fast as asked."""


@contextmanager
def given(place: str, value: Any) -> Iterator[None]:
    """With another value of a constant, wherever it was imported, and where it is a parameter's default."""
    module, _, name = place.rpartition(".")
    old = getattr(importlib.import_module(f"graphopt.{module}"), name)
    ours = [m for key, m in list(sys.modules.items()) if key.split(".")[0] == "graphopt"]
    holders = [m for m in ours if vars(m).get(name) is old]
    defaults = [
        (made, key)
        for made in {id(f): f for m in ours for f in vars(m).values() if callable(f)}.values()
        for key, default in (getattr(made, "__kwdefaults__", None) or {}).items()
        if default is old and key == name.rpartition("_")[2].lower()
    ]
    try:
        for module_ in holders:
            setattr(module_, name, value)
        for made, key in defaults:
            made.__kwdefaults__[key] = value
        yield
    finally:
        for module_ in holders:
            setattr(module_, name, old)
        for made, key in defaults:
            made.__kwdefaults__[key] = old


def tried(places: dict[str, Values], measure: Callable[[], Sequence[float]], names: Sequence[str]) -> None:
    """A table of what `measure` finds with each value; the first line is with all as they stand."""
    print(f"{'constant':48} {'value':>28}", *(f"{n:>12}" for n in names), flush=True)
    for place, value in [("", None), *((p, v) for p, values in places.items() for v in values)]:
        with given(place, value) if place else nullcontext():
            found = measure()
        shown = str(value) if place else "as they stand"
        print(f"{place:48} {shown:>28}", *(f"{f:12.4g}" for f in found), flush=True)


def synthetic() -> Sequence[float]:
    """As a network at a budget, but without calibration inputs."""
    return network(calibrated=False)


def triple() -> Sequence[float]:
    """As a network at a budget, but of inverted bottlenecks alone."""
    return network(form="inverted_bottleneck")


def cheapest() -> Sequence[float]:
    """The part of the MACs that is left at 25 dB, networks that were made, and seconds."""
    start = time.process_time()
    report = searched({"sqnr": 25.0})
    return (
        (report.after.macs or 0) / (report.before.macs or 1),
        len(report.curve),
        time.process_time() - start,
    )


def fast() -> Sequence[float]:
    """The part of the input's time that is left where 0.7 is asked for, networks made, and seconds."""
    start = time.process_time()
    report = searched({"latency": 0.7})
    ratio = report.latency.ratio if report.latency is not None else np.nan
    return ratio, len(report.curve), time.process_time() - start


def searched(budget: dict[str, float]) -> Report:
    """The report of the residual sample at a budget, met or not."""
    fitted_on = np.load(MODELS / "digits-calibration.npz")["input"][:FITTED_ON]
    try:
        chosen = ["bottleneck", "fold_affine"]
        return graphopt.optimize(MODELS / "resnet-digits.onnx", budget, fitted_on, only=chosen).report
    except graphopt.BudgetError as error:
        report: Report = error.result.report
        return report


def seeds() -> None:
    """How far the networks of other seeds are from one another in dB: what a difference has to exceed."""
    print(*(f"seed {seed}: {network(seed=seed)[0]:.2f} dB" for seed in range(4)), sep=", ")


def replanned() -> Sequence[float]:
    """As a network at a budget, but fitted to 16 inputs."""
    return network(fitted_on=16)


def budgets() -> None:
    """What is lost at other budgets in dB (SWEPT)."""
    print(*(f"{part}: {network(macs=part)[0]:.1f} dB" for part in (0.9, 0.5, 0.3, 0.2)), sep=", ")


def blocked() -> None:
    """Whether onnxruntime has a blocked kernel for so many input channels (ALIGNMENT)."""
    options = ort.SessionOptions()
    with TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        for channels in (16, 18, 20, 22, 24):
            g = Graph(channels, 16)
            ort.InferenceSession(g.model(g.conv("x", 32, 3)).SerializeToString(), options)
            domains = {node.domain for node in onnx.load(options.optimized_model_filepath).graph.node}
            print(f"{channels}: {'com.microsoft.nchwc' in domains}", end="  ")
    print()


def network(
    *,
    calibrated: bool = True,
    seed: int = 0,
    form: str = "bottleneck",
    fitted_on: int = FITTED_ON,
    macs: float = BUDGET,
) -> Sequence[float]:
    """Signal to noise of the logits on inputs that no fit saw, labels lost, bans, and seconds."""
    path, start = MODELS / "resnet-digits.onnx", time.process_time()
    calibration = np.load(MODELS / "digits-calibration.npz")["input"][:fitted_on]
    result = graphopt.optimize(
        path,
        budget={"macs": macs},
        calibration=calibration if calibrated else None,
        only=[form, "fold_affine"],
        seed=seed,
    )
    seconds, test = time.process_time() - start, np.load(MODELS / "digits-test.npz")
    feeds = [{"input": test["input"]}]
    before, after = (
        computed.outputs(session.structure(m), feeds, optimised=True)[0][0]
        for m in (load(path).model, result.model)
    )
    noise = float(np.sum((after - before) ** 2)) / float(np.sum(before**2))
    wrong = [int(np.sum(y.argmax(axis=1) != test["label"])) for y in (before, after)]
    banned = sum("predicted" in left.reason for left in result.report.rejected + result.report.declined)
    return -10 * np.log10(noise), wrong[1] - wrong[0], banned, seconds


@cache
def layers() -> list[tuple[Linear, Moments, Moments]]:
    """The layers of more than one tap of the residual sample, with what they read, of two halves."""
    source = load(MODELS / "resnet-digits.onnx")
    analysis = Analysis(source.model, bindings={"input": (1, 1, 32, 32)})
    calibration = inputs.load(np.load(MODELS / "digits-calibration.npz")["input"], source.model, 0)
    found = [each for each in analysis.linears if not each.pointwise and (each.in_channels or 0) >= 32][:2]
    halves = [calibration.fit[start::2] for start in (0, 1)]
    seen = [statistics.statistics(analysis, found, calibration, half, 0) for half in halves]
    return [(each, *(s[each.name].groups[0] for s in seen)) for each in found]  # type: ignore[misc]


def layer() -> Sequence[float]:
    """What each way of splitting loses on the other half of the inputs, summed up, and seconds."""
    start, triple, pair, tucker, predicted = time.process_time(), 0.0, 0.0, 0.0, 0.0
    for linear, fitted_on, other in layers():
        kernel = linear.weight()
        few = min(kernel.shape[:2]) // 2
        made = [
            canonical_polyadic.fit(kernel, fitted_on, 2 * few).kernel,
            separable.fit_depthwise(kernel, fitted_on, 2).kernel,
            tucker_fit.fit_factors(kernel, fitted_on, few, few).kernel(),
        ]
        lost = [relative_error(kernel, each, other) for each in made]
        triple, pair, tucker = triple + lost[0], pair + lost[1], tucker + lost[2]
        predicted += canonical_polyadic.errors(kernel, fitted_on, [few, 2 * few])[0]
    return triple, predicted, pair, tucker, time.process_time() - start


def exactly() -> Sequence[float]:
    """What is left of the MACs, operators and weights of the sample architectures, and seconds."""
    start, before, after = time.process_time(), np.zeros(3), np.zeros(3)
    for name in ARCHITECTURES:
        report = graphopt.optimize(getattr(architectures, name)()).report
        before += [getattr(report.before, key) or 0 for key in ("macs", "nodes", "weight_bytes")]
        after += [getattr(report.after, key) or 0 for key in ("macs", "nodes", "weight_bytes")]
    return *(after / before), time.process_time() - start


def bounded(model: onnx.ModelProto) -> Sequence[float]:
    """What is left of MACs, operators and weights, the part of the time that it takes, and seconds."""
    start = time.process_time()
    result = graphopt.optimize(model, aim="macs")
    seconds, report = time.process_time() - start, result.report
    left = [
        (getattr(report.after, key) or 0) / max(getattr(report.before, key) or 0, 1)
        for key in ("macs", "nodes", "weight_bytes")
    ]
    feed = {"x": np.zeros([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim], np.float32)}
    ratio = latency.time_pair(load(model).model, result.model, feed, repeat=30).ratio
    return *left, ratio, seconds


def kinks() -> None:
    """What part of other inputs meets an inserted Relu's kink (insert_pointwise.MARGIN)."""
    fitted_on, test = (np.load(MODELS / f"digits-{part}.npz")["input"] for part in ("calibration", "test"))
    source = load(MODELS / "resnet-digits.onnx").model
    for margin, many in itertools.product((0.0, 0.01, 0.1, 0.5), (32, 400)):
        with given("rewrites.expanding.insert_pointwise.MARGIN", margin):
            result = graphopt.optimize(
                source,
                calibration=fitted_on[:many],
                only=["insert_pointwise"],
                at=["*"],
                options={"insert_pointwise.activation": "relu"},
            )
        before, after = (
            session.session(session.structure(m), optimised=True).run(None, {"input": test})[0]
            for m in (source, result.model)
        )
        wrong = np.abs(after - before).max(axis=1) > 1e-4 * np.abs(before).max()
        print(
            f"{margin:6} of the range of {many} inputs: {wrong.mean():6.1%} differ",
            flush=True,
        )


def mixing() -> None:
    """How many times longer than a nearest Resize of one scale a mixing one takes (MIXING_PASSES)."""
    for scale, mode in itertools.product((2, 4), ("linear", "cubic")):
        quick, mixed = (resizing(scale, kind) for kind in ("nearest", mode))
        feed: Feeds = {"x": np.ones((1, 8, 28, 28), np.float32)}
        ratio = latency.time_pair(quick, mixed, feed, repeat=30).ratio
        print(f"{mode:8} x{scale}: {ratio:5.1f}", flush=True)


def resizing(scale: int, mode: str) -> ir.Model:
    """A Resize alone."""
    g = Graph(8, 28)
    scales = g.weight(np.array([1, 1, scale, scale], np.float32))
    return load(g.model(g.op("Resize", ["x", "", scales], mode=mode))).model


def large_matrices() -> None:
    """Seconds for a square matrix's rank, by singular values and by a search (exact_factors.LARGE)."""
    rng = np.random.default_rng(0)
    for size, rank in itertools.product((256, 512, 1024, 2048), (8, None)):
        matrix = rng.standard_normal((size, rank or size)) @ rng.standard_normal((rank or size, size))
        matrix, seconds = matrix.astype(np.float32), []
        for large in (1 << 20, 0):
            with given("numerics.lowrank.exact_factors.LARGE", large):
                start = time.process_time()
                exact_factors.find_rank(matrix, float(np.finfo(np.float32).eps), size // 2 - 1)
            seconds.append(time.process_time() - start)
        print(f"{size:5} of rank {rank or size:5}: {seconds[0]:7.3f} {seconds[1]:7.3f}", flush=True)


def operator() -> Sequence[float]:
    """The shortest runs of one small network, timed eight times: largest over least, and seconds."""
    start, model = time.perf_counter(), load(MODELS / "resnet-digits.onnx").model
    feed = {"input": np.zeros((1, 1, 32, 32), np.float32)}
    found = [operator_times.Stopwatch(None).whole(model, feed) for _ in range(8)]
    return max(found) / min(found), time.perf_counter() - start


def sizes() -> None:
    """Bytes of the file besides weights, for each operator that a budget adds (NODE_BYTES, RECORDED)."""
    fitted_on = np.load(MODELS / "digits-calibration.npz")["input"][:32]
    for only in ("bottleneck", "separable", "depthwise_separable"):
        path, folded = MODELS / "resnet-digits.onnx", "fold_affine"
        plain = graphopt.optimize(path, only=[folded])
        result = graphopt.optimize(path, {"macs": BUDGET}, fitted_on, only=[only, folded])
        rest, protos = [], [ir.to_proto(each.model) for each in (plain, result)]
        for proto in protos:
            record = sum(each.ByteSize() for each in proto.metadata_props)
            weights = sum(len(each.raw_data) for each in proto.graph.initializer)
            rest.append((proto.ByteSize() - record - weights, record, len(proto.graph.node)))
        (bytes0, record0, nodes0), (bytes1, record1, nodes1) = rest
        changes = sum(each.candidate.rewrite == only for each in result.report.applied)
        each = (bytes1 - bytes0) / max(nodes1 - nodes0, 1)
        print(
            f"{only:24} {each:6.0f} a node, {(record1 - record0) / max(changes, 1):6.0f} of record a change"
        )


def differences() -> None:
    """The largest differences over all exact rewrites of the sample architectures, by what is compared."""
    print(f"{'model':24} {'changes':>8} {'model':>10} {'optimised':>10}   (MODEL_BOUND 1e-4)")
    for name in ARCHITECTURES:
        report = graphopt.optimize(getattr(architectures, name)(), aim="macs").report
        plain, optimised = (
            max((c.max_rel for c in report.checks if c.scope == scope), default=0.0)
            for scope in ("model", "model, optimised session")
        )
        print(f"{name:24} {len(report.applied):8} {plain:10.1e} {optimised:10.1e}", flush=True)


def clocks() -> None:
    """A model against itself: how far the median ratio of so many pairs is from 1 (latency.NOISE, FEWEST)."""
    model = load(MODELS / "resnet-digits.onnx").model
    feed = {"input": np.zeros((1, 1, 32, 32), np.float32)}
    print(f"{'pairs':>6} {'median |ratio − 1|':>20} {'largest':>10} {'beyond NOISE':>14}")
    for pairs, warm in itertools.product((5, 30, 100), (0, 3)):
        with given("runtime.latency.WARM_UP", warm):
            off = [abs(latency.time_pair(model, model, feed, repeat=pairs).ratio - 1) for _ in range(10)]
        beyond = sum(o > latency.NOISE for o in off)
        print(
            f"{pairs:6} {np.median(off):20.4f} {max(off):10.4f} {beyond:11} of 10  warm-up {warm}", flush=True
        )


def only(places: dict[str, Values], asked: Sequence[str]) -> dict[str, Values]:
    """Those constants that are asked for, by name or by the part before it."""
    return {
        p: v for p, v in places.items() if not asked or any(p.endswith(n) or p.startswith(n) for n in asked)
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the experiments and prints what they find."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    asked = parser.parse_args(argv).names
    for title, places, measure, names in (
        ("One layer, error on other inputs", LAYER, layer, ("CP", "CP planned", "depthwise", "Tucker", "s")),
        ("Exact rewrites", EXACT, exactly, ("MACs", "operators", "weights", "s")),
        ("A clock", CLOCK, operator, ("spread", "s")),
        ("Without inputs", SYNTHETIC, synthetic, ("dB", "labels lost", "banned", "s")),
        ("A network at a budget", NETWORK, network, ("dB", "labels lost", "banned", "s")),
        ("A network of few inputs", FEW, replanned, ("dB", "labels lost", "banned", "s")),
        ("Inverted bottlenecks", TRIPLE, triple, ("dB", "labels lost", "banned", "s")),
        ("A quality", QUALITY, cheapest, ("MACs", "networks", "s")),
        ("A latency", LATENCY, fast, ("ratio", "networks", "s")),
    ):
        chosen = only(places, asked)
        if chosen:
            print(f"\n{title}: {measure.__doc__}")
            tried(chosen, measure, names)
    for place, values, build in LIMIT:
        if only({place: values}, asked):
            print(f"\n{build.__doc__} {bounded.__doc__}")
            names = ("MACs", "operators", "weights", "time", "s")
            tried({place: values}, partial(bounded, build()), names)
    for name, experiment in (
        ("MODEL_BOUND", differences),
        ("NODE_BYTES", sizes),
        ("clocks", clocks),
        ("seeds", seeds),
        ("SWEPT", budgets),
        ("ALIGNMENT", blocked),
        ("insert_pointwise.MARGIN", kinks),
        ("MIXING_PASSES", mixing),
        ("exact_factors.LARGE", large_matrices),
    ):
        if not asked or name in asked:
            print(f"\n{experiment.__doc__}")
            experiment()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Calibration inputs: reading, splitting, and what the convolutions see of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt import regions, runtime
from graphopt.analysis import Analysis
from graphopt.bindings import fixed
from graphopt.compare import Difference, agreement
from graphopt.conv import Form, Linear
from graphopt.core import Array, Candidate, Replacement
from graphopt.errors import InputError
from graphopt.lowrank import Moments, MomentsAccumulator
from graphopt.runtime import Feeds

Given: TypeAlias = "str | os.PathLike[str] | Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any]"
"""Calibration inputs as a caller may give them: a path, arrays by input name, or one array."""

FIT_PARTS, ALL_PARTS = 3, 4
"""Of every four inputs three are fitted to, and one is held out."""
BATCH = 32
"""Inputs run at once where the model leaves the batch open."""
POSITIONS = 64
"""Output positions sampled from an input, at least."""
ROWS_PER_DIMENSION = 64
"""Samples aimed at for each dimension of a covariance."""
COVARIANCE_BYTES = 1 << 30
"""Covariances gathered in one pass over the inputs; what does not fit takes another pass."""
SMALL_SAMPLE = 64
"""Held-out inputs under which figures of quality are uncertain."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration inputs, split.

    Attributes:
        fit: the inputs to fit on, by model input.
        held_out: the inputs to measure on.
        batch: inputs to run at once.
        fixed: whether the model takes exactly ``batch`` inputs, so that a rest that is smaller is left out.
    """

    fit: Feeds
    held_out: Feeds
    batch: int
    fixed: bool

    @property
    def samples(self) -> int:
        """Number of held-out inputs."""
        return _count(self.held_out)

    def batches(self, feeds: Feeds) -> Iterator[Feeds]:
        """The inputs, as many at once as the model takes."""
        for part in runtime.batches(feeds, self.batch):
            if not self.fixed or _count(part) == self.batch:
                yield part

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each model input; an open batch counts as 1."""
        batch = self.batch if self.fixed else 1
        return {name: (batch, *array.shape[1:]) for name, array in self.fit.items()}

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of each model input."""
        return {name: (float(array.min()), float(array.max())) for name, array in self.fit.items()}


def _count(feeds: Feeds) -> int:
    return min((len(array) for array in feeds.values()), default=0)


def load(given: Given, model: ir.Model, seed: int) -> Calibration:
    """Reads calibration inputs, checks them against the model, and splits them 3:1.

    Raises:
        InputError: a file can't be read, or an array is missing, extra, misshaped or of the wrong type.
    """
    feeds, batch = read(given, model)
    count = _count(feeds)
    fixed = batch is not None
    held = max(count // ALL_PARTS, 1)
    if batch is not None:
        held = max(held // batch, 1) * batch
    if count - held < (batch or 1):
        raise InputError(f"calibration: {count} inputs are too few to fit on some and hold others out")
    order = np.random.default_rng(seed).permutation(count)
    fit, held_out = np.sort(order[held:]), np.sort(order[:held])
    return Calibration(
        {name: array[fit] for name, array in feeds.items()},
        {name: array[held_out] for name, array in feeds.items()},
        batch or BATCH,
        fixed,
    )


def whole(given: Given, model: ir.Model) -> Calibration:
    """Reads calibration inputs to measure on, all of them; nothing is fitted, so none has to be held out.

    Raises:
        InputError: as `load`.
    """
    feeds, batch = read(given, model)
    if batch is not None and _count(feeds) < batch:
        raise InputError(f"calibration: {_count(feeds)} inputs are too few: the model takes {batch} at once")
    return Calibration(feeds, feeds, batch or BATCH, batch is not None)


def read(given: Given, model: ir.Model) -> tuple[Feeds, int | None]:
    """The inputs as the model takes them, and its batch size where that is fixed.

    Raises:
        InputError: as `load`.
    """
    where, arrays = _arrays(given)
    inputs = {value.name or "": value for value in model.graph.inputs if not value.is_initializer()}
    if len(arrays) == 1 and len(inputs) == 1:
        arrays = {next(iter(inputs)): next(iter(arrays.values()))}
    for name in inputs:
        if name not in arrays:
            raise InputError(f"{where}: no array for the model's input {name!r}; it holds {_listed(arrays)}")
    for name in arrays:
        if name not in inputs:
            raise InputError(f"{where}: the model has no input {name!r}; its inputs are {_listed(inputs)}")
    feeds = {name: _fitting(where, value, arrays[name]) for name, value in inputs.items()}
    counts = {name: len(array) for name, array in feeds.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"{where}: the inputs have different numbers of samples: {counts}")
    batches = {
        size
        for value in inputs.values()
        if value.shape is not None and len(value.shape) and (size := fixed(value.shape[0])) is not None
    }
    return feeds, max(batches) if batches else None


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in names) or "nothing"


def _arrays(given: Given) -> tuple[str, dict[str, npt.NDArray[Any]]]:
    """Where the arrays come from, and the arrays by key."""
    if isinstance(given, np.ndarray):
        return "calibration", {"": given}
    if isinstance(given, Mapping):
        return "calibration", {name: np.asarray(array) for name, array in given.items()}
    path = Path(given)
    if not path.is_dir():
        return str(path), _read_file(path)
    files = sorted(p for p in path.iterdir() if p.suffix in (".npy", ".npz"))
    if not files:
        raise InputError(f"{path}: the folder holds no .npy or .npz file")
    parts = [_read_file(file) for file in files]
    keys = set(parts[0])
    odd = next((file for file, part in zip(files, parts, strict=True) if set(part) != keys), None)
    if odd is not None:
        raise InputError(f"{odd}: its arrays are not those of {files[0].name}: {_listed(parts[0])}")
    try:
        return str(path), {key: np.concatenate([part[key] for part in parts]) for key in sorted(keys)}
    except ValueError as error:
        raise InputError(f"{path}: the files' arrays don't fit together: {error}") from error


def _read_file(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such calibration file") from error
    except Exception as error:  # NumPy raises many kinds for damaged files
        raise InputError(f"{path}: no readable .npz or .npy file: {runtime.one_line(error)}") from error


def _fitting(where: str, value: ir.Value, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array in the input's type, checked against its shape."""
    name = f"{where}: array for input {value.name!r}"
    wanted = np.dtype(value.dtype.numpy()) if value.dtype is not None else np.dtype(np.float32)
    if array.ndim == 0 or not len(array):
        raise InputError(f"{name} holds no samples")
    if wanted.kind in "fV" and array.dtype.kind != "f":
        raise InputError(
            f"{name} is {array.dtype}, the model takes {wanted}: give inputs that are preprocessed already"
        )
    if wanted.kind not in "fV" and array.dtype.kind != wanted.kind:
        raise InputError(f"{name} is {array.dtype}, the model takes {wanted}")
    if value.shape is not None:
        declared = [fixed(d) for d in value.shape]
        fits = len(declared) == array.ndim and all(
            d is None or d == n for d, n in zip(declared[1:], array.shape[1:], strict=True)
        )
        if not fits:
            shape = ["N", *("?" if d is None else d for d in declared[1:])]
            raise InputError(f"{name} has shape {list(array.shape)}, the model takes {shape}")
    if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
        raise InputError(f"{name} has values that are not finite")
    with np.errstate(over="ignore"):
        cast = array.astype(wanted, copy=False)
    if wanted.kind == "f" and not np.all(np.isfinite(cast)):
        raise InputError(f"{name} has values that {wanted} can't hold")
    return cast


# ---------------------------------------------------------------- what convolutions see


def moments(
    analysis: Analysis, linears: Sequence[Linear], calibration: Calibration, seed: int
) -> dict[str, Moments]:
    """Mean and covariance of the patches that each linear operator of the outermost graph reads.

    Args:
        analysis: a snapshot of the model.
        linears: the operators.
        calibration: the inputs; those to fit on are run.
        seed: of the positions that are sampled.

    Returns:
        The statistics by name of the operator; patches are channel-major, then tap.
    """
    found: dict[str, Moments] = {}
    for chunk in _affordable(linears):
        totals = {linear.name: MomentsAccumulator(_dimensions(linear)) for linear in chunk}
        rng = np.random.default_rng(seed)
        names = sorted({linear.x for linear in chunk})
        for values in stream(analysis.model, names, calibration, calibration.fit):
            for linear in chunk:
                x = values[linear.x]
                totals[linear.name].add(patches(x, linear, _enough(linear, calibration), rng))
        found.update({name: total.result() for name, total in totals.items()})
    return found


def _dimensions(linear: Linear) -> int:
    return (linear.in_channels or 1) * int(np.prod(linear.kernel))


def _affordable(linears: Sequence[Linear]) -> Iterator[list[Linear]]:
    chunk: list[Linear] = []
    size = 0
    for linear in linears:
        needed = 16 * _dimensions(linear) ** 2  # the total, and the product that is added to it
        if chunk and size + needed > COVARIANCE_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(linear)
        size += needed
    if chunk:
        yield chunk


def _enough(linear: Linear, calibration: Calibration) -> int:
    """Positions to sample from each input."""
    return max(POSITIONS, -(-ROWS_PER_DIMENSION * _dimensions(linear) // _count(calibration.fit)))


def stream(
    model: ir.Model, names: Sequence[str], calibration: Calibration, feeds: Feeds
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The content of values of the outermost graph, batch by batch."""
    given = [name for name in names if name in feeds]
    wanted = [name for name in names if name not in feeds]
    running = runtime.session(runtime.structure(model), optimised=False, outputs=wanted) if wanted else None
    for part in calibration.batches(feeds):
        values = {name: part[name] for name in given}
        if running is not None:
            values.update(zip(wanted, runtime.run(running, part, wanted), strict=True))
        yield values


def patches(
    x: npt.NDArray[Any], linear: Linear, positions: int, rng: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Patches [samples, in_channels·taps] of the padded input [N, C, …] at sampled output positions."""
    form, kernel = linear.form, linear.kernel
    sizes = form.output_sizes(x.shape[2:], kernel)
    count = int(np.prod(sizes))
    flat = np.arange(count) if count <= positions else np.sort(rng.choice(count, positions, replace=False))
    where = np.unravel_index(flat, sizes)
    padded = _pad(x, form).astype(np.float32, copy=False)
    taps = []
    for tap in np.ndindex(*kernel):
        at = tuple(w * s + t * d for w, s, t, d in zip(where, form.strides, tap, form.dilations, strict=True))
        taps.append(padded[(slice(None), slice(None), *at)])  # [N, C, P]
    stacked = np.stack(taps, axis=-1)  # [N, C, P, T]
    return stacked.transpose(0, 2, 1, 3).reshape(-1, x.shape[1] * len(taps))


def _pad(x: npt.NDArray[Any], form: Form) -> npt.NDArray[Any]:
    if not form.padded:
        return x
    axes = len(form.strides)
    return np.pad(x, [(0, 0), (0, 0), *((form.pads[i], form.pads[i + axes]) for i in range(axes))])


# ---------------------------------------------------------------- measured on held-out inputs


def extremes(
    analysis: Analysis, linears: Sequence[Linear], calibration: Calibration
) -> dict[str, tuple[Array, Array]]:
    """Lowest and highest value [out] of each operator's output over all calibration inputs, by its name."""
    names = {linear.y: linear.name for linear in linears}
    found: dict[str, tuple[Array, Array]] = {}
    for part in (calibration.fit, calibration.held_out):
        for values in stream(analysis.model, sorted(names), calibration, part):
            for y, name in names.items():
                rows = np.moveaxis(values[y], 1, -1).reshape(-1, values[y].shape[1]).astype(np.float64)
                low, high = found.get(name, (rows[0], rows[0]))
                found[name] = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
    return found


def region_errors(
    analysis: Analysis, changes: Sequence[tuple[Candidate, Replacement]], calibration: Calibration
) -> dict[str, float]:
    """E‖y − ŷ‖² / Var(y) of each changed region alone, on held-out inputs, by name of the anchor."""
    pairs = [regions.region(analysis, c, change, f"r{i}/") for i, (c, change) in enumerate(changes)]
    errors: dict[str, float] = {}
    for chunk in regions.chunks(pairs, calibration.batch):
        errors.update(_chunk_errors(analysis, chunk, calibration))
    return errors


def _chunk_errors(
    analysis: Analysis, chunk: Sequence[regions.Region], calibration: Calibration
) -> dict[str, float]:
    running = runtime.session(regions.assemble(analysis.model, chunk, open_batch=True), optimised=False)
    sources = {name: source for item in chunk for name, source in item.sources.items()}
    outputs = [name for item in chunk for _, old, new in item.outputs for name in (old, new)]
    noise = dict.fromkeys(outputs, 0.0)
    spread = {name: _Spread() for name in outputs}
    for values in stream(analysis.model, sorted(set(sources.values())), calibration, calibration.held_out):
        feeds = {name: values[source] for name, source in sources.items()}
        results = dict(zip(outputs, runtime.run(running, feeds, outputs), strict=True))
        for _, old, new in (pair for item in chunk for pair in item.outputs):
            exact, approximate = results[old].astype(np.float64), results[new].astype(np.float64)
            noise[old] += float(((exact - approximate) ** 2).sum())
            spread[old].add(exact)
    found: dict[str, float] = {}
    for item in chunk:
        for _, old, _ in item.outputs:
            ratio = noise[old] / spread[old].total if spread[old].total else 0.0
            anchor = item.candidate.site.nodes[0]
            found[anchor] = max(found.get(anchor, 0.0), ratio)
    return found


class _Spread:
    """Σ (y − mean)² with one mean a channel, over batches."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: npt.NDArray[np.float64] | None = None
        self._squares = 0.0

    def add(self, y: npt.NDArray[np.float64]) -> None:
        rows = np.moveaxis(y, 1, -1).reshape(-1, y.shape[1])
        total = rows.sum(axis=0)
        self._sum = total if self._sum is None else self._sum + total
        self._count += len(rows)
        self._squares += float(np.vdot(rows, rows))

    @property
    def total(self) -> float:
        if self._sum is None:
            return 0.0
        return max(self._squares - float(np.vdot(self._sum, self._sum)) / self._count, 0.0)


@dataclass(frozen=True, slots=True)
class Quality:
    """How far apart two models are on some inputs.

    Attributes:
        agreement: fraction of equal argmax over axis 1; None where no counted output holds class scores.
        sqnr: 10·log10(Σ ref² / Σ (ref − cand)²) in dB, the lowest over the counted outputs.
        samples: number of inputs.
    """

    agreement: float | None
    sqnr: float
    samples: int


def quality(
    reference: ir.Model, candidate: ir.Model, calibration: Calibration, feeds: Feeds, kept: Sequence[str] = ()
) -> Quality:
    """Measures the candidate against the reference, both as onnxruntime optimises them.

    Args:
        reference: the original.
        candidate: the rewritten model.
        calibration: how to batch.
        feeds: the inputs to measure on.
        kept: names of the outputs that count; all when empty.
    """
    names = [v.name or "" for v in reference.graph.outputs if not kept or v.name in kept]
    sessions = [runtime.session(runtime.structure(m), optimised=True) for m in (reference, candidate)]
    gaps = {name: Difference() for name in names}
    equal: dict[str, float] = {}
    count = 0
    for part in calibration.batches(feeds):
        size = _count(part)
        count += size
        pairs = zip(*(runtime.run(s, part, names) for s in sessions), strict=True)
        for name, (exact, approximate) in zip(names, pairs, strict=True):
            gaps[name].add(exact, approximate)
            same = agreement(exact, approximate)
            if same is not None:
                equal[name] = equal.get(name, 0.0) + same * size
    lowest = min(equal.values()) / count if equal else None
    return Quality(lowest, min(gap.sqnr for gap in gaps.values()), count)

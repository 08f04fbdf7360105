"""Calibration inputs: checked, told apart, and some of them held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from graphopt.analysis.shapes.inputs import takes_array
from graphopt.calibration import inspection, reading
from graphopt.calibration.batch_axis import CONSTANT, SampleAxis, slots
from graphopt.calibration.reading import Given
from graphopt.calibration.samples import Samples, content, together
from graphopt.calibration.sources import streams
from graphopt.calibration.telling_apart import told_apart
from graphopt.errors import InputError, Named
from graphopt.runtime.session import Feeds

ONE_HELD_OUT_OF = 4
"""One of so many inputs is held out, and the others are fitted to. Measured by benchmarks.thresholds: with 2,
4 and 8 a network of 128 inputs kept 33.3, 33.9 and 34.7 dB, four seeds alone give 33.5 to 34.5; with 8 half
as many are left to measure quality on, see `SMALL_SAMPLE`."""
BATCH = 32
"""Inputs run at once where the model leaves the batch open; results do not depend on it but by rounding and
by the positions that are sampled."""
FEWEST_TO_FIT = 2
"""Inputs to fit on at least, and to probe on: derived, one alone shows nothing of how they differ."""
SMALL_SAMPLE = 64
"""Held-out inputs under which figures of quality are uncertain: derived, of 64 that all agree the 95 %
interval (Wilson 1927) still reaches down to 94.3 %."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration inputs, split.

    Attributes:
        fit: the inputs to fit on.
        held_out: the inputs to measure on.
        batch: inputs to run at once.
        fixed: whether the model takes exactly ``batch`` inputs, so that a rest that is smaller is left out.
        empty: why nothing can be learnt of them; "" where something can.
        doubts: what is odd about them.
        given: how many inputs were given.
        numbers: of the held-out inputs among those that were given.
    """

    fit: Samples
    held_out: Samples
    batch: int
    fixed: bool
    empty: str = ""
    doubts: tuple[str, ...] = ()
    given: int = 0
    numbers: tuple[int, ...] = ()

    @property
    def fitted(self) -> int:
        """Number of inputs to fit on."""
        return len(self.fit)

    @property
    def samples(self) -> int:
        """Number of held-out inputs."""
        return len(self.held_out)

    @property
    def sha256(self) -> str:
        """Of the inputs, whatever their order and however they are split: of the samples' digests, sorted."""
        samples = []
        for part in (self.fit, self.held_out):
            for feed in part.feeds:
                digest = hashlib.sha256()
                for name, array in sorted(feed.items()):
                    row = array.ndim > 0 and len(array) == 1
                    digest.update(
                        f"{name}\0{array.dtype} {array.shape[1:] if row else array.shape}\0".encode()
                    )
                    digest.update(content(array))
                samples.append(digest.digest())
        return hashlib.sha256(b"".join(sorted(samples))).hexdigest()

    @property
    def one_by_one(self) -> Calibration:
        """The same inputs, each of which is run by itself."""
        fit, held_out = self.fit.one_by_one, self.held_out.one_by_one
        return replace(self, fit=fit, held_out=held_out, batch=1, fixed=True)

    @property
    def recorded(self) -> dict[str, object]:
        """What a model that was fitted to them tells of them."""
        return {"inputs": self.fitted + self.samples, "sha256": self.sha256}

    def parts(self, samples: Samples) -> Iterator[Samples]:
        """The samples, as many at once as the model takes."""
        for part in samples.cut(self.batch):
            if not self.fixed or len(part) == self.batch:
                yield part

    def batches(self, samples: Samples) -> Iterator[Feeds]:
        """The same as what is fed."""
        for part in self.parts(samples):
            yield part.joined()

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each model input, the one that most samples have; an open batch counts as 1."""
        batch, axes = self.batch if self.fixed else 1, self.fit.axes or {}
        return {
            name: tuple(n * batch if a == axes.get(name) else n for a, n in enumerate(array.shape))
            for name, array in self.fit.usual.items()
        }

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest value of each model input that has numbers; whole ones are told exactly."""
        found: dict[str, tuple[float, float]] = {}
        for name in self.fit.names:
            arrays = [array for array in self.fit.arrays(name) if array.size and array.dtype.kind != "O"]
            if arrays:
                whole = arrays[0].dtype.kind in "iu"
                number: Callable[[Any], float] = int if whole else float
                found[name] = min(number(a.min()) for a in arrays), max(number(a.max()) for a in arrays)
        return found


def affordable(total: float, macs: int | None, passes: float, least: int, most: int) -> int:
    """How many inputs can be run.

    Args:
        total: multiply-accumulates that all may take, about.
        macs: of the model for one input; None where unknown.
        passes: over the model that one input takes.
        least: number of inputs at least.
        most: and at most, which counts before the least.

    Returns:
        The number of inputs.
    """
    return min(most, max(least, int(total / max(1.0, passes * (macs or 1)))))


def load(
    given: Given, model: ir.Model, seed: int, sample_axis: Mapping[str, SampleAxis] | None = None
) -> Calibration:
    """Reads calibration inputs, checks them against the model, and splits them 3:1.

    Args:
        given: files, folders, arrays, or what yields them.
        model: the model to be fed.
        seed: of the split.
        sample_axis: along which axis of an input's arrays samples lie, where the user says so.

    Returns:
        A quarter of the inputs, held out, and the others to fit on.

    Raises:
        InputError: a file can't be read, or an array is missing, extra, misshaped or of the wrong type.
    """
    given, unread = streams.gathered(given, _fed(model))
    samples, batch = read(given, model, sample_axis)
    given_count = count = len(samples)
    fixed = batch is not None
    empty = inspection.emptiness(samples)
    doubts = [*filter(None, [unread]), *inspection.doubts(samples)]
    different, numbers = inspection.distinct(samples), np.arange(count)
    if len(different) < 2 <= count:
        empty = empty or f"the {count} inputs are all the same one, and quality is measured on others"
    elif len(different) < count and not empty:
        doubts.append(f"{count - len(different)} of {count} inputs repeat others, and are left out")
        samples, numbers = samples.chosen(different), np.asarray(different)
        count = len(different)
    shown = count if empty else inspection.pictures(samples)
    if shown < 2 <= count:
        empty = f"the {count} different inputs are one picture over and over, in other scales and offsets"
    elif shown < count:
        doubts.append(
            f"{count - shown} of {count} inputs are others in another scale and offset, so that figures of "
            "quality are too good"
        )
    held = max(count // ONE_HELD_OUT_OF, 1)
    if batch is not None:
        held = max(held // batch, 1) * batch
    fewest = max(batch or 1, FEWEST_TO_FIT)
    if count - held < fewest:
        few = _counted(count, "" if count == given_count else "different ")
        few += "" if count == given_count else f", of {given_count},"
        forms = _said(sample_axis) if given_count > 1 else ""
        if not forms and given_count == (batch or 1):
            forms = _other_forms(model, samples, sample_axis)
        raise InputError(
            f"calibration: {few} {'is' if count == 1 else 'are'} too few to fit on some and hold others out: "
            f"{fewest + (batch or 1)} different ones are the least"
            f"{f', as the model takes {batch} at once' if (batch or 1) > 1 else ''}"
            f"{forms}"
        )
    order = np.random.default_rng(seed).permutation(count)
    fit, held_out = order[held:], np.sort(order[:held])  # any part of those to fit on is a fair sample
    doubts += [] if samples.alike else [_several_sizes(samples)]
    return Calibration(
        samples.chosen(fit),
        samples.chosen(held_out),
        batch or BATCH,
        fixed,
        empty,
        () if empty else tuple(doubts),
        given_count,
        tuple(numbers[held_out].tolist()),
    )


def whole(given: Given, model: ir.Model, sample_axis: Mapping[str, SampleAxis] | None = None) -> Calibration:
    """Reads calibration inputs to measure on, all of them; nothing is fitted, so none has to be held out.

    Args:
        given: files, folders, arrays, or what yields them.
        model: the model to be fed.
        sample_axis: along which axis of an input's arrays samples lie, where the user says so.

    Returns:
        All of them as those to fit on and to measure on.

    Raises:
        InputError: as `load`.
    """
    samples, batch = read(given, model, sample_axis)
    if batch is not None and len(samples) < batch:
        few = f"{_counted(len(samples))} {'is' if len(samples) == 1 else 'are'} too few"
        raise InputError(f"calibration: {few}: the model takes {batch} at once")
    count = len(samples)
    return Calibration(
        samples, samples, batch or BATCH, batch is not None, given=count, numbers=tuple(range(count))
    )


def read(
    given: Given, model: ir.Model, sample_axis: Mapping[str, SampleAxis] | None = None
) -> tuple[Samples, int | None]:
    """Reads calibration inputs as the model takes them.

    Inputs of several sizes, and those of a model that has inputs without a batch, are taken one by one.

    Args:
        given: files, folders, arrays, or what yields them.
        model: the model to be fed.
        sample_axis: along which axis of an input's arrays samples lie, where the user says so.

    Returns:
        The samples, and how many a run takes; None where any number.

    Raises:
        InputError: as `load`.
    """
    inputs = _fed(model)
    places = slots(inputs, model.graph.outputs, sample_axis)
    given, _ = streams.gathered(given, inputs)
    where, parts = reading.parts(given, model, places)
    for name, value in inputs.items():
        if not takes_array(value):
            raise InputError(
                f"{where}: the model's input {name!r} takes {value.type}, and calibration inputs are arrays; "
                "exact rewrites need none"
            )
    found, runs, batches = list[Samples](), list[Feeds](), set[int | None]()
    for place, arrays in parts:
        feeds = reading.named(place, arrays, inputs)
        samples, batch = told_apart(place, places, feeds, several=len(parts) > 1)
        for name, value in inputs.items():
            reading.require_finite(f"{place}: array for input {name!r}", value, samples.arrays(name))
        found.append(samples)
        runs.append(feeds)
        batches.add(batch)
    samples = together(found)
    for slot in places:
        if slot.said == CONSTANT and not _all_same(samples.arrays(slot.name)):
            raise InputError(
                f"{where}: {Named('sample_axis', CONSTANT, slot.name)}: samples have different arrays for it"
            )
    most = max(batch or 1 for batch in batches)
    if most > 1 and not samples.alike and len(runs) > 1 and all(len(part) == most for part in found):
        return Samples(tuple(runs), None), 1  # each is one run of the model, of its own size
    if most > 1 and (len(batches) > 1 or samples.axes is None or not samples.alike):
        what = "of several sizes" if not samples.alike else "with different arrays for what all of them share"
        raise InputError(f"{where}: the model takes {most} samples at once, and these are {what}")
    if batches == {None} and samples.alike and samples.axes is not None:
        return samples, None
    return (samples, most) if most > 1 else (samples.one_by_one, 1)


def _fed(model: ir.Model) -> dict[str, ir.Value]:
    """The inputs that take arrays of the caller, by name."""
    return {value.name or "": value for value in model.graph.inputs if not value.is_initializer()}


def _all_same(arrays: Sequence[npt.NDArray[Any]]) -> bool:
    return all(array is arrays[0] or np.array_equal(array, arrays[0]) for array in arrays)


def _counted(count: int, kind: str = "") -> str:
    """So many inputs, in words."""
    return f"{count} {kind}{'input' if count == 1 else 'inputs'}"


def _said(sample_axis: Mapping[str, SampleAxis] | None) -> str:
    """Where the samples lie as the user says, which may be what is wrong."""
    said = [str(Named("sample_axis", str(a), n)) for n, a in (sample_axis or {}).items() if a != CONSTANT]
    return f" (counted as {', '.join(said)} says)" if said else ""


def _other_forms(model: ir.Model, samples: Samples, sample_axis: Mapping[str, SampleAxis] | None) -> str:
    """What to give where all that was given is taken as one sample."""
    places = slots(_fed(model), model.graph.outputs, sample_axis)
    run, one = samples.joined(), "one" if len(samples) == 1 else "one run"
    taken = [slot for slot in places if slot.said != CONSTANT and run[slot.name].ndim]
    told = [
        f"{slot.name!r} of {list(run[slot.name].shape)} is taken as {one}: give {slot.forms}"
        for slot in taken
    ]
    if not told:
        return ""
    said = Named("sample_axis", "AXIS", taken[0].name)
    return f" ({'; '.join(told)}; or a file or item of a list for each; or say {said})"


def _several_sizes(samples: Samples) -> str:
    """That inputs are of several sizes, and which one counts are of."""
    sizes = ", ".join(f"{name!r} of {list(array.shape)}" for name, array in samples.usual.items())
    return f"the inputs are of several sizes, and costs are counted at {sizes}"

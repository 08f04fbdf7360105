"""What the user asks of a run, checked as far as that needs no model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

from graphopt.calibration.batch_axis import CONSTANT, SampleAxes, SampleAxis
from graphopt.errors import InputError, Named, hint, percentage
from graphopt.measures import registry as measures
from graphopt.measures.tasks import NAMES
from graphopt.pipeline.options.effort import Effort, parsed_effort
from graphopt.pipeline.options.table import RUN, TABLE
from graphopt.pipeline.options.typed import typed
from graphopt.planning import CONFIDENCE, NONE, gates
from graphopt.planning.budget import Budget
from graphopt.rewrites.base import AnyRewrite, ApproximateRewrite, ExpandingRewrite, Rewrite
from graphopt.rewrites.registry import BUILTIN, option_types, registry, select
from graphopt.runtime.limits.memory import default_bytes
from graphopt.types import Counted, Exactness, Figure
from graphopt.verification.metrics.own import OwnMetric
from graphopt.verification.metrics.task import TaskMetric, named

CLASSES = "classification"
"""The measure of whoever has class scores."""
OFF = "off"
"""The floor of whoever wants none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for: the options of `RUN`, each under its name; see `graphopt.optimize`."""

    budget: Budget
    rewrites: tuple[AnyRewrite, ...]
    metric: OwnMetric | TaskMetric | None
    memory: int
    require: tuple[gates.Gate, ...]
    outputs: Counted
    aim: str = "time"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    at: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sample_axis: Mapping[str, SampleAxis] = field(default_factory=dict)
    seed: int = 0
    gate: str | None = None
    freeze_initializers: bool = False
    force: bool = False
    confidence: float = CONFIDENCE
    floor: tuple[gates.Gate, ...] | None = None
    tune: Effort | None = None

    @property
    def relies_on_inputs(self) -> bool:
        """Whether something is fitted to calibration inputs, or a quality measured on them."""
        fitted = any(isinstance(each, ApproximateRewrite) and each.fixed for each in self.rewrites)
        asked = (*gates.of_budget(self.budget), *self.require)
        measured = isinstance(self.metric, TaskMetric) or any(gate.key in gates.MEASURED for gate in asked)
        return fitted or measured or self.budget != Budget()

    @property
    def names_quality(self) -> bool:
        """Whether a budget or a gate says which quality will do."""
        return bool(self.qualities)

    @property
    def qualities(self) -> tuple[gates.Gate, ...]:
        """The limits of a budget and the gates that are of a quality."""
        asked = (*gates.of_budget(self.budget), *self.require)
        return tuple(gate for gate in asked if gate.key not in gates.COSTS)

    @property
    def asks_size(self) -> bool:
        """Whether a budget or a gate asks for bytes or parameters."""
        asked = (*gates.of_budget(self.budget), *self.require)
        return any(gate.key in gates.SIZES for gate in asked)

    @property
    def asks_macs(self) -> bool:
        """Whether a budget or a gate asks for MACs."""
        asked = (*gates.of_budget(self.budget), *self.require)
        return any(gate.key == "macs" for gate in asked)

    @property
    def takes_class_scores(self) -> bool:
        """Whether outputs are said to be class scores: by their measure, or as an agreement is asked for."""
        asked = (*gates.of_budget(self.budget), *self.require, *(self.floor or ()))
        named = isinstance(self.metric, TaskMetric) and self.metric.task == CLASSES
        return named or any(gate.key == "agreement" for gate in asked)

    @property
    def asked_figures(self) -> tuple[str, ...]:
        """The keys of a ready measure's figures that a budget, a gate or the floor names."""
        asked = (*gates.of_budget(self.budget), *self.require, *(self.floor or ()))
        return tuple(dict.fromkeys(gate.key for gate in asked if gate.of is not None))

    def recorded(self) -> dict[str, object]:
        """What decides the result, as the model itself tells it: spelled one way, and without defaults."""
        builtin = {each.name for each in BUILTIN}
        asked = {option.name: self._plain(option.name) for option in RUN if option.recorded}
        asked["options"] = {
            f"{rewrite.name}.{name}": getattr(rewrite, name)
            for rewrite in self.rewrites
            for name, (_, default) in option_types(rewrite).items()
            if getattr(rewrite, name) != default
        }
        asked["others"] = sorted(rewrite.name for rewrite in self.rewrites if rewrite.name not in builtin)
        asked["budget"] = {key: float(limit) for key, limit in _limits(self.budget).items()}
        asked["shapes"] = {name: [int(size) for size in shape] for name, shape in self.shapes.items()}
        confidence = asked.pop("confidence")  # of which 0 is no default
        spelled = {name: sorted(set(v)) if isinstance(v, tuple) else v for name, v in asked.items() if v}
        if confidence != CONFIDENCE:
            spelled["confidence"] = confidence
        return {**spelled, "seed": int(self.seed)}

    def described(self) -> dict[str, object]:
        """The options as the report gives them."""
        return {
            "rewrites" if option.name == "options" else option.name: self._plain(option.name)
            for option in RUN
            if option.described
        }

    def _plain(self, name: str) -> object:
        """What an option holds, without objects of ours."""
        if name == "outputs":
            return self.outputs.spelled
        if name == "budget":
            return _limits(self.budget)
        if name == "options":
            return {r.name: {key: getattr(r, key) for key in option_types(r)} for r in self.rewrites}
        if name == "metric":
            return None if self.metric is None else self.metric.name
        if name == "require":
            return [str(gate) for gate in self.require]
        if name == "tune":
            return None if self.tune is None else str(self.tune)
        if name == "floor":
            return None if self.floor is None else ", ".join(str(gate) for gate in self.floor) or OFF
        return dict(getattr(self, name)) if name in ("shapes", "sample_axis") else getattr(self, name)


def _limits(budget: Budget) -> dict[str, float]:
    """The keys of a budget that ask for something."""
    return {gate.key: gate.limit for gate in gates.of_budget(budget)}


def make_options(
    budget: Budget | Mapping[str, float] | None = None,
    *,
    calibrated: bool = False,
    rewrites: Iterable[Rewrite | type[Rewrite]] = (),
    options: Mapping[str, object] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    sample_axis: SampleAxes | None = None,
    outputs: Iterable[str] = (),
    metric: str | OwnMetric | TaskMetric | None = None,
    memory: int | None = None,
    require: Iterable[str | gates.Gate] = (),
    confidence: float | str | None = CONFIDENCE,
    floor: str | None = None,
    tune: str | float | None = None,
    **others: Any,
) -> Options:
    """The options of a run, from what `graphopt.optimize` takes.

    Args:
        budget: what the result has to reach.
        calibrated: whether there are calibration inputs.
        rewrites: rewrites that take part besides the built-in ones.
        options: options of rewrites.
        shapes: sizes of inputs, by input name.
        sample_axis: along which axis of an input's calibration arrays samples lie.
        outputs: what counts, as it was asked; which values that are is not known yet.
        metric: a measure; the user's own is not loaded yet.
        memory: bytes that activations may take.
        require: gates.
        confidence: of a quality that is asked for; ``none``, None or 0 for none.
        floor: a quality without which no network is taken.
        tune: how long the weights are fitted together.
        others: whatever else stands in `RUN`.

    Returns:
        The options, checked as far as that needs no model.

    Raises:
        InputError: an option is unknown, has a value that it can't have, or lacks another.
    """
    given = {"budget": budget, "options": options, "shapes": shapes, "outputs": outputs, "memory": memory}
    budget, options, shapes, outputs, memory = typed(**given).values()
    require, others = typed(require=require)["require"], typed(**others)
    plain: dict[str, Any] = {
        name: tuple(value) if TABLE[name].default == () else value for name, value in others.items()
    }
    measure = named(metric) if isinstance(metric, str) else metric
    if measure is not None and not isinstance(measure, (OwnMetric, TaskMetric)):
        raise InputError(
            f"{Named('metric')}: expected a ready measure's name or package.module:function, and not "
            f"{type(metric).__name__}"
        )
    figures = measure.figures if isinstance(measure, TaskMetric) else {}
    asked = Options(
        budget=make_budget(budget, figures),
        shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
        sample_axis=make_sample_axis(sample_axis, calibrated=calibrated),
        rewrites=(),
        outputs=Counted(outputs),
        metric=measure,
        memory=memory or default_bytes(),
        require=gates.parse(require, measures.all_figures()),
        confidence=make_confidence(confidence),
        floor=make_floor(floor, figures),
        tune=parsed_effort(tune),
        **plain,
    )
    if asked.gate not in (None, "latency"):
        raise InputError(f"{Named('gate', asked.gate)}: it is latency")
    if asked.aim not in TABLE["aim"].choices:
        raise InputError(f"{Named('aim', asked.aim)}: it is {' or '.join(TABLE['aim'].choices)}")
    _check_measures(asked, calibrated=calibrated)
    for taken, left in (("only", "skip"), ("at", "keep")):
        wanted = getattr(asked, taken)
        if wanted and set(wanted) <= set(getattr(asked, left)):
            first = wanted[0]
            raise InputError(f"{Named(taken, first)}: {Named(left, first)} leaves it out, and all else")
    chosen = select(registry(rewrites), only=asked.only, skip=asked.skip, options=options)
    chosen = _check_selection(chosen, asked.budget, asked.only)
    _check_expanding(chosen, asked.budget, at=bool(asked.at), calibrated=calibrated)
    return replace(asked, rewrites=tuple(chosen))


def make_sample_axis(given: SampleAxes | None, *, calibrated: bool) -> dict[str, SampleAxis]:
    """Along which axis of each input's arrays samples lie, checked as far as that needs no model.

    Args:
        given: by input; or the one of a model that has one input, which is then under "".
        calibrated: whether there are calibration inputs.

    Returns:
        The axes by input.

    Raises:
        InputError: one is no axis, or there are no calibration inputs.
    """
    found = dict(given) if isinstance(given, Mapping) else {} if given is None else {"": given}
    if found and not calibrated:
        raise InputError(f"{Named('sample_axis')} says where samples lie: give {Named('calibration')}")
    for name, axis in found.items():
        if isinstance(axis, Integral) and not isinstance(axis, bool) and axis >= 0:
            found[name] = int(axis)
        elif axis != CONSTANT:
            raise InputError(
                f"{Named('sample_axis', str(axis), name)}: expected the number of an axis, from 0 on, or "
                f"{CONSTANT} where all samples share the array"
            )
    return found


def make_confidence(given: float | str | None) -> float:
    """A confidence, 0 where figures are judged by themselves.

    Raises:
        InputError: it is neither a part from 0 to 1, nor none.
    """
    if given is None or given == NONE:
        return 0.0
    number = float(given) if isinstance(given, Real) and not isinstance(given, bool) else -1.0
    if not 0 <= number < 1:
        shown = str(given).removesuffix(".0")
        part = percentage(shown if isinstance(given, str) else f"{shown}%")
        meant = f"; did you mean {part:g}?" if part is not None and 0.01 < part < 1 else ""
        wanted = f"a part under 1, such as {CONFIDENCE:g}, or {NONE}"
        raise InputError(f"{Named('confidence', shown)}: expected {wanted}{meant}")
    return number


def make_floor(given: str | None, figures: Mapping[str, Figure]) -> tuple[gates.Gate, ...] | None:
    """The floor of a quality; none where it is off, None where it depends on the kind of output.

    Args:
        given: ``off``, or a key and its limit, such as ``agreement=0.8``.
        figures: those of the measure that was named.

    Returns:
        What every network has to keep.

    Raises:
        InputError: it is neither.
    """
    if given is None:
        return None
    if given == OFF:
        return ()
    text = str(given)
    key, sign, limit = (part.strip() for part in re.split("(<=|>=|=|$)", text, maxsplit=1))
    if key not in figures:
        _require_measure(Named("floor", text), key)
    if key not in (*gates.MEASURED, *figures):
        raise InputError(
            f"{Named('floor', text)}: expected a quality and its limit, such as agreement=0.8, or {OFF}; "
            f"{hint(key, (*gates.MEASURED, *figures))}"
        )
    if sign not in ("", "=", gates.sign(key, figures.get(key))):
        raise InputError(f"{Named('floor', text)}: {gates.other_sign(key, limit, figures.get(key))}")
    try:
        number = float(limit)
    except ValueError:
        raise InputError(f"{Named('floor', text)}: {limit!r} is no number") from None
    expected = gates.refused(key, number, 1.0, "=", figures.get(key))
    if expected:
        raise InputError(f"{Named('floor', text)}: {expected}")
    return (gates.Gate(key, number, figures.get(key)),)


def make_budget(
    given: Budget | Mapping[str, float] | None, figures: Mapping[str, Figure] | None = None
) -> Budget:
    """A budget from its keys, checked; figures are those of the measure that was named.

    Raises:
        InputError: an unknown key, or a value that is no fraction in (0, 1] (for sqnr: no positive number).
    """
    if isinstance(given, Budget):
        given = {gate.key: gate.limit for gate in gates.of_budget(given)}
    known = figures or {}
    values: dict[str, Any] = dict(typed(budget=given)["budget"] or {})
    for key, value in values.items():
        if key not in (*gates.KEYS, *known):
            _require_measure(Named("budget", key=key), key)
            raise InputError(f"{Named('budget', key=key)}: no such key; {hint(key, (*gates.KEYS, *known))}")
        expected = "" if value is None else gates.refused(key, value, 1.0, "=", known.get(key))
        if expected:
            shown = f"{value:g}" if isinstance(value, (int, float)) else repr(value)
            raise InputError(f"{Named('budget', shown, key)}: {expected}")
    limits = {key: float(value) for key, value in values.items() if value is not None}
    plain: dict[str, Any] = {key: limit for key, limit in limits.items() if key in gates.KEYS}
    return Budget(
        **plain, figures=tuple((known[key], limit) for key, limit in limits.items() if key in known)
    )


def _require_measure(asked: Named, key: str) -> None:
    """Refuses a figure of a measure that was not named.

    Raises:
        InputError: the key is one.
    """
    telling = [name for name in NAMES if any(key == f.key for f in measures.kind(name).FIGURES)]
    if telling:
        raise InputError(
            f"{asked}: needs {' or '.join(str(Named('metric', n)) for n in telling)}, of which it is a figure"
        )


def _check_selection(chosen: Sequence[AnyRewrite], limits: Budget, only: Sequence[str]) -> list[AnyRewrite]:
    """The rewrites that take part; expanding ones only by name. Approximate ones need a budget, or ranks."""
    has_budget = bool(gates.of_budget(limits))
    for rewrite in chosen:
        unplanned = isinstance(rewrite, ApproximateRewrite) and not (has_budget or rewrite.fixed)
        if rewrite.name in only and unplanned:
            raise InputError(
                f"{Named('only', rewrite.name)} needs a budget ({Named('budget', 0.7, 'macs')}) "
                f"or fixed ranks ({Named('options', 16, f'{rewrite.name}.rank_in')})"
            )
    return [r for r in chosen if r.exactness is not Exactness.EXPANDING or r.name in only]


def _check_measures(asked: Options, *, calibrated: bool) -> None:
    """A quality needs inputs to measure on, a measure a name."""
    measure = Named("metric", "NAME")
    if asked.metric is None and asked.budget.metric is not None:
        raise InputError(f"{Named('budget', key='metric')} needs {measure}, the measure that it is of")
    if isinstance(asked.metric, TaskMetric) and not calibrated:
        raise InputError(
            f"{Named('metric', asked.metric.name)}: is measured on inputs: give {Named('calibration')}"
        )
    if asked.tune is not None and not (calibrated and asked.relies_on_inputs):
        raise InputError(
            f"{Named('tune', str(asked.tune))}: fits the network of a budget to inputs: give "
            f"{Named('budget')} and {Named('calibration')}"
        )
    figures = asked.metric.figures if isinstance(asked.metric, TaskMetric) else {}
    for gate in asked.require:
        if gate.of is not None and gate.key not in figures:
            _require_measure(Named("require", gate), gate.key)
    limits = [(gate.key, Named("budget", key=gate.key)) for gate in gates.of_budget(asked.budget)]
    limits += [(gate.key, Named("require", gate)) for gate in asked.require]
    limits += [(gate.key, Named("floor", str(gate))) for gate in asked.floor or ()]
    for key, name in limits:
        if key in gates.MEASURED and not calibrated:
            raise InputError(f"{name}: a quality is measured on inputs: give {Named('calibration')}")
        if key == "metric" and asked.metric is None:
            raise InputError(f"{name}: needs {measure}, its measure")


def _check_expanding(chosen: Sequence[AnyRewrite], limits: Budget, *, at: bool, calibrated: bool) -> None:
    """An expanding rewrite runs alone, at named nodes and without a budget."""
    rewrite = next((r for r in chosen if isinstance(r, ExpandingRewrite)), None)
    if rewrite is None:
        return
    if len(chosen) > 1:
        others = ", ".join(r.name for r in chosen if r is not rewrite)
        raise InputError(f"{rewrite.name} makes the model dearer and runs alone, not with {others}")
    if gates.of_budget(limits):
        raise InputError(f"{rewrite.name} makes the model dearer: it keeps no {Named('budget')}")
    if not at:
        raise InputError(
            f"{Named('only', rewrite.name)} needs {Named('at', 'NODE_GLOB')}, "
            "the nodes behind which to insert"
        )
    reason = rewrite.why_not(calibrated=calibrated)
    if reason:
        raise InputError(reason)

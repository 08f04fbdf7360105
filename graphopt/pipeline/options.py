"""What the user asks of a run, checked as far as that needs no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from graphopt.errors import InputError, hint
from graphopt.planning import gates
from graphopt.planning.budget import Budget
from graphopt.rewrites.base import Rewrite
from graphopt.rewrites.registry import BUILTIN, option_types, registry, select
from graphopt.runtime.memory import default_bytes
from graphopt.types import Exactness
from graphopt.verification.user_metric import OwnMetric


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for; see `graphopt.optimize`."""

    budget: Budget = field(default_factory=Budget)
    rewrites: tuple[Rewrite, ...] = ()
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    by_time: bool = True
    at: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    metric: OwnMetric | None = None
    memory: int = field(default_factory=default_bytes)
    gate_latency: bool = False
    freeze_initializers: bool = False
    require: tuple[gates.Gate, ...] = ()

    def recorded(self) -> dict[str, object]:
        """What decides the result, as the model itself tells it: spelled one way, and without defaults."""
        builtin = {each.name for each in BUILTIN}
        options = {
            f"{rewrite.name}.{name}": getattr(rewrite, name)
            for rewrite in self.rewrites
            for name, (_, default) in option_types(rewrite).items()
            if getattr(rewrite, name) != default
        }
        asked = {
            "budget": {key: float(v) for key, v in asdict(self.budget).items() if v is not None},
            "only": sorted(set(self.only)),
            "skip": sorted(set(self.skip)),
            "at": sorted(set(self.at)),
            "keep": sorted(set(self.keep)),
            "outputs": sorted(set(self.outputs)),
            "options": options,
            "shapes": {name: [int(size) for size in shape] for name, shape in self.shapes.items()},
            "gate": "latency" if self.gate_latency else None,
            "freeze_initializers": self.freeze_initializers,
            "metric": None if self.metric is None else self.metric.name,
            "others": sorted(rewrite.name for rewrite in self.rewrites if rewrite.name not in builtin),
        }
        aim = "time" if self.by_time else "macs"
        return {"aim": aim, "seed": int(self.seed), **{key: value for key, value in asked.items() if value}}

    def described(self) -> dict[str, object]:
        """The options as the report gives them."""
        return {
            "budget": {key: value for key, value in asdict(self.budget).items() if value is not None},
            "rewrites": {r.name: {name: getattr(r, name) for name in option_types(r)} for r in self.rewrites},
            "aim": "time" if self.by_time else "macs",
            "gate": "latency" if self.gate_latency else None,
            "at": self.at,
            "keep": self.keep,
            "outputs": self.outputs,
            "shapes": dict(self.shapes),
            "seed": self.seed,
            "freeze_initializers": self.freeze_initializers,
            "metric": None if self.metric is None else self.metric.name,
            "require": [str(gate) for gate in self.require],
        }


def make_options(
    budget: Budget | Mapping[str, float] | None = None,
    *,
    calibrated: bool = False,
    rewrites: Iterable[Rewrite | type[Rewrite]] = (),
    aim: str = "time",
    only: Iterable[str] = (),
    skip: Iterable[str] = (),
    at: Iterable[str] = (),
    keep: Iterable[str] = (),
    outputs: Iterable[str] = (),
    options: Mapping[str, object] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    gate: str | None = None,
    freeze_initializers: bool = False,
    metric: str | OwnMetric | None = None,
    memory: int | None = None,
    require: Iterable[str | gates.Gate] = (),
) -> Options:
    """The options of a run, from what `graphopt.optimize` takes.

    Args:
        budget: what the result has to reach.
        calibrated: whether there are calibration inputs.
        rewrites: rewrites that take part besides the built-in ones.
        aim: ``time`` or ``macs``.
        only: names of the rewrites that take part.
        skip: names of rewrites that do not.
        at: patterns of node names.
        keep: patterns of node names.
        outputs: names of the outputs that count.
        options: options of rewrites.
        shapes: sizes of inputs, by input name.
        seed: of everything random.
        gate: ``latency`` or None.
        freeze_initializers: whether initializers that are inputs too are constants.
        metric: the user's own measure, which is not loaded yet.
        memory: bytes that activations may take.
        require: gates.

    Returns:
        The options, checked as far as that needs no model.

    Raises:
        InputError: an option is unknown, has a value that it can't have, or lacks another.
    """
    if gate not in (None, "latency"):
        raise InputError(f"--gate {gate}: it is latency")
    if aim not in ("time", "macs"):
        raise InputError(f"--aim {aim}: it is time or macs")
    only, skip, at = tuple(only), tuple(skip), tuple(at)
    limits = make_budget(budget)
    own = OwnMetric(metric) if isinstance(metric, str) else metric
    required = _check_gates(gates.parse(require), own, calibrated=calibrated)
    _check_measures(limits, own, calibrated=calibrated)
    chosen = select(registry(rewrites), only=only, skip=skip, options=options)
    chosen = _check_selection(chosen, limits, only)
    _check_expanding(chosen, limits, at=bool(at), calibrated=calibrated)
    return Options(
        budget=limits,
        rewrites=tuple(chosen),
        only=only,
        skip=skip,
        by_time=aim == "time",
        at=at,
        keep=tuple(keep),
        outputs=tuple(outputs),
        shapes={name: tuple(shape) for name, shape in (shapes or {}).items()},
        seed=seed,
        metric=own,
        memory=memory or default_bytes(),
        gate_latency=gate == "latency",
        freeze_initializers=freeze_initializers,
        require=required,
    )


def make_budget(given: Budget | Mapping[str, float] | None) -> Budget:
    """A budget from its keys, checked.

    Raises:
        InputError: an unknown key, or a value that is no fraction in (0, 1] (for sqnr: no positive number).
    """
    values = asdict(given) if isinstance(given, Budget) else dict(given or {})
    for key, value in values.items():
        if key not in gates.KEYS:
            raise InputError(f"--budget {key}: no such key; {hint(key, gates.KEYS)}")
        expected = "" if value is None else gates.refused(key, value, 1.0, "=")
        if expected:
            raise InputError(f"--budget {key}={value:g}: {expected}")
    return Budget(**values)


def _check_selection(chosen: Sequence[Rewrite], limits: Budget, only: Sequence[str]) -> list[Rewrite]:
    """The rewrites that take part; expanding ones only by name. Approximate ones need a budget, or ranks."""
    has_budget = bool(gates.of_budget(limits))
    for rewrite in chosen:
        fixed = getattr(rewrite, "fixed", False)
        if rewrite.name in only and rewrite.exactness is Exactness.APPROXIMATE and not (has_budget or fixed):
            raise InputError(
                f"--only {rewrite.name} needs a budget (--budget macs=0.7) or fixed ranks "
                f"(--set {rewrite.name}.rank_in=16)"
            )
    return [r for r in chosen if r.exactness is not Exactness.EXPANDING or r.name in only]


def _check_measures(limits: Budget, metric: OwnMetric | None, *, calibrated: bool) -> None:
    """A quality key needs inputs to measure on, the user's own measure a name."""
    if metric is None and limits.metric is not None:
        raise InputError("--budget metric needs --metric package.module:function, the measure that it is of")
    for key in gates.MEASURED:
        if getattr(limits, key) is not None and not calibrated:
            raise InputError(f"--budget {key}: a quality is measured on inputs: give --calibration")


def _check_gates(
    required: tuple[gates.Gate, ...], metric: OwnMetric | None, *, calibrated: bool
) -> tuple[gates.Gate, ...]:
    """The gates, for each of which there will be a figure."""
    for gate in required:
        if gate.key in gates.MEASURED and not calibrated:
            raise InputError(f"--require {gate}: a quality is measured on inputs: give --calibration")
        if gate.key == "metric" and metric is None:
            raise InputError(f"--require {gate}: needs --metric package.module:function, its measure")
    return required


def _check_expanding(chosen: Sequence[Rewrite], limits: Budget, *, at: bool, calibrated: bool) -> None:
    """An expanding rewrite runs alone, at named nodes and without a budget."""
    rewrite = next((r for r in chosen if r.exactness is Exactness.EXPANDING), None)
    if rewrite is None:
        return
    if len(chosen) > 1:
        others = ", ".join(r.name for r in chosen if r is not rewrite)
        raise InputError(f"{rewrite.name} makes the model dearer and runs alone, not with {others}")
    if gates.of_budget(limits):
        raise InputError(f"{rewrite.name} makes the model dearer: it keeps no --budget")
    if not at:
        raise InputError(f"--only {rewrite.name} needs --at NODE_GLOB, the nodes behind which to insert")
    refusal = getattr(rewrite, "refusal", None)
    reason = refusal(calibrated=calibrated) if refusal is not None else ""
    if reason:
        raise InputError(reason)

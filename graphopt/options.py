"""What the user asks of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from graphopt.core import Budget, Rewrite
from graphopt.gates import Gate
from graphopt.metric import OwnMetric
from graphopt.rewrites import BUILTIN, option_types
from graphopt.store import default_bytes


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
    require: tuple[Gate, ...] = ()

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
            "require": [str(gate) for gate in self.require],
        }

"""Whether two models compute the same, by running both in onnxruntime.

What is compared are the outputs, and where those tell too little, the values before them. An output that no
test input changes, or that onnxruntime's own optimisation changes about as much as other inputs do, would
pass whatever a model computes; rankings turn rounding into another answer. So

1. where decisions (rankings, thresholds) differ, both models are given those of the original; what they are
   made on is compared in any case;
2. in the place of a value that tells too little those are compared that it is made of, by operators that are
   the same in both models: from equal values they make the same;
3. where nothing before it tells more, the inputs are tried in other ranges;
4. what still tells too little is named first in every report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from graphopt.errors import InputError
from graphopt.runtime import session
from graphopt.runtime.exposure import exposed
from graphopt.verification.counterparts import Counterparts
from graphopt.verification.difference import Difference, Output, finite
from graphopt.verification.heads import is_layer
from graphopt.verification.interface import interface
from graphopt.verification.reference import Reference, name_of
from graphopt.verification.values import Values, difference, random
from graphopt.verification.verdict import Rule, Verdict, Verification, measured, unrunnable

OWN_DIFFERENCE_FACTOR = 4.0
"""A model may differ as much as this times what onnxruntime's own optimisation changes in the original.
Derived: both roundings are alike and independent, so the largest of n differences is that of another n times
√2; tests/test_thresholds.py draws them: from n = 10 on, 4 is exceeded in under 1 % of cases, 3 in 3 %."""


@dataclass(frozen=True)
class Watched:
    """The values that a candidate is compared by.

    Attributes:
        before: by output, the values that are compared in its place or besides it; it alone where it tells
            enough by itself.
        decisions: what operators decide that are the same in both models, by name in both.
    """

    before: Mapping[ir.Value, tuple[ir.Value, ...]]
    decisions: Mapping[str, str]

    @property
    def values(self) -> dict[ir.Value, ir.Value]:
        """Each value with an output that it is part of; outputs first."""
        found = {output: output for output in self.before}
        for output, values in self.before.items():
            for value in values:
                found.setdefault(value, output)
        return found

    @property
    def names(self) -> frozenset[str]:
        """The names that the original has for them."""
        return frozenset(map(name_of, self.values))

    def stands_in(self, value: ir.Value) -> bool:
        """Whether other values are compared in the place of an output."""
        before = self.before.get(value)
        return bool(before) and value not in (before or ())


def verify(reference: Reference, candidate: ir.Model) -> Verification:
    """Whether the outputs are equal up to rounding, the candidate as it stands and as optimised.

    What was found about one candidate says nothing of the next.

    Raises:
        InputError: onnxruntime can't load or run the reference.
    """
    different = interface(reference.model, candidate, frozen=reference.frozen)
    if different is not None:
        return Verification((different,))
    reference.prepare()
    try:
        return Comparison(reference, candidate).verification()
    except InputError as error:
        outputs = map(name_of, reference.outputs)
        return Verification(tuple(unrunnable("model", name, error) for name in outputs))


class Comparison:
    """The comparison of one model with the one that it was.

    Args:
        reference: the model as it was, prepared.
        candidate: the model as rewritten.
    """

    def __init__(self, reference: Reference, candidate: ir.Model) -> None:
        self._reference, self._heads, self._outputs = reference, reference.heads, reference.outputs
        self._pairs = Counterparts(reference.model, candidate, reference.heads.constants)
        self._rewritten = session.structure(candidate)
        self._originals = [reference.original]
        self._vague: set[ir.Value] = set()
        self._unread: set[ir.Value] = set()
        self._tried_others = False
        self._notes: list[str] = []

    def verification(self) -> Verification:
        """Whether the outputs are equal up to rounding, the candidate as it stands and as optimised.

        Raises:
            InputError: onnxruntime can't run what the comparison takes.
        """
        while True:
            watched = self._watched()
            known = len(self._vague), len(self._unread)
            checks = [
                check for optimised in (False, True) for check in self._compared(watched, optimised=optimised)
            ]
            if (len(self._vague), len(self._unread)) == known and not self._found_others(checks, watched):
                break
        if all(checks):
            return Verification(tuple(checks), tuple(self._notes))
        return self._without_random(checks)

    # ------------------------------------------------------------ what is compared

    def _watched(self) -> Watched:
        """What to compare, as far as is known by now which values tell enough."""
        heads, values = self._heads, self._originals[0].values
        before = {output: tuple(self._telling([output])) for output in self._outputs}
        # What decisions inside are made on, and what they pick from, belongs to no output alone.
        beside = [
            value
            for node in heads.following
            if self._pairs.same(node)
            for value in heads.read(node)
            if not heads.decided(value) and value.producer() is not None
        ]
        if before and beside:
            first = next(iter(before))
            before[first] = tuple(dict.fromkeys((*before[first], *self._telling(beside))))
        decided = [
            (name_of(value), name_of(twin))
            for node in heads.decisions
            if self._pairs.same(node)
            for value in node.outputs
            if value.name and value.name not in values.lost
            if (twin := self._pairs.of(value)) is not None
        ]
        return Watched(before, {a: b for a, b in decided if not isinstance(values.of(a)[0], list)})

    def _telling(self, values: Iterable[ir.Value]) -> Iterator[ir.Value]:
        """The nearest values that tell enough and that operators which are the same in both make these of."""
        heads, stack, done = self._heads, list(values), set[ir.Value]()
        while stack:
            value = stack.pop()
            if value in done or not heads.told(value) or self._lost(value):
                continue
            done.add(value)
            before = self._standing_for(value)
            if before:
                stack += before
            elif self._pairs.of(value) is not None:
                yield value

    def _standing_for(self, value: ir.Value) -> list[ir.Value]:
        """What is looked at in the value's place; nothing where it tells enough, or nothing else can be."""
        before = self._before(value)
        if not before or self._heads.decided(value):
            return before
        if self._heads.joined(value):
            self._find(before)
        elif self._tells(value):
            return []
        else:  # at once: these will be asked for next
            self._find(self._all_before(value))
        return self._before(value)  # less those that can't be read, which is known by now

    def _find(self, values: Iterable[ir.Value]) -> None:
        names = [name_of(value) for value in values]
        for original in self._originals:
            original.values.find(names)

    def _before(self, value: ir.Value) -> list[ir.Value]:
        """What the value is made of by an operator that is no layer and the same in both; else nothing."""
        node = value.producer()
        if node is None or is_layer(node) or not self._pairs.same(node):
            return []
        before = [each for each in self._heads.read(node) if each.producer() is not None]
        return [] if any(map(self._lost, before)) else before

    def _lost(self, value: ir.Value) -> bool:
        """Whether onnxruntime does not hand the value out, as far as is known by now."""
        name = name_of(value)
        return value in self._unread or any(name in original.values.lost for original in self._originals)

    def _tells(self, value: ir.Value) -> bool:
        """Whether other inputs change the value by much more than two models may differ."""
        name = name_of(value)
        return value not in self._vague and any(o.tells(name, o.bound(name)) for o in self._originals)

    def _all_before(self, value: ir.Value) -> list[ir.Value]:
        """All that a value is made of by operators that are the same in both, back to the layers."""
        stack, found = [value], dict[ir.Value, None]()
        while stack:
            new = [each for each in self._before(stack.pop()) if each not in found]
            found.update(dict.fromkeys(new))
            stack += new
        return list(found)

    # ------------------------------------------------------------ comparisons

    def _compared(self, watched: Watched, *, optimised: bool) -> list[Verdict]:
        """The verdicts on the outputs, and on the values that are compared besides."""
        scope = "model, optimised session" if optimised else "model"
        twins = {value: self._pairs.of(value) or value for value in watched.values}
        names = {value: name_of(twin) for value, twin in twins.items()}
        try:
            found = [Values(self._rewritten, o.feeds, optimised=optimised) for o in self._originals]
            self._read(names, found)
        except InputError as error:
            return [unrunnable(scope, name_of(output), error) for output in self._outputs]
        if self._unread.intersection(names):  # to be compared without those
            return []
        gaps = self._gaps(names, found)
        decisions = frozenset[str]()
        if watched.decisions and not all(self._is_near(value, gap) for value, gap in gaps.items()):
            try:
                given = [
                    Values(self._rewritten, o.feeds, optimised=optimised, given=o.given(watched.decisions))
                    for o in self._originals
                ]
                self._read(names, given)
                gaps, found = self._gaps(names, given), given
                decisions = frozenset(watched.decisions)
            except InputError:  # not even that fits: they differ
                pass
        checks: dict[ir.Value, Verdict] = {}
        for value, gap in sorted(gaps.items(), key=lambda item: watched.stands_in(item[0])):
            if optimised and math.isinf(self._own_difference(watched, value, gap, decisions)):
                # Where optimising the original makes other values finite, no factor of that is a bound.
                like = [o.optimised(decisions, watched.names) for o in self._originals]
                gap = self._gap(name_of(value), names[value], like, found)
            checks[value] = self._verdict(scope, watched, value, gap, decisions, checks)
        return [checks[value] for value in watched.values]

    def _read(self, names: Mapping[ir.Value, str], found: Sequence[Values]) -> None:
        """Finds the candidate's values, and notes those that are not to be compared.

        Those are values that onnxruntime does not hand out, and pairs before the outputs of other sizes:
        operators that are the same may have been fed otherwise, as by fewer of several in a row.

        Raises:
            InputError: onnxruntime can't load or run the candidate.
        """
        for original, each in zip(self._originals, found, strict=True):
            each.find(names.values())
            self._unread |= {value for value, name in names.items() if name in each.lost}
            self._unread |= {
                value
                for value, name in names.items()
                if value not in self._outputs and name not in each.lost
                if not all(map(_of_one_shape, original.values.of(name_of(value)), each.of(name)))
            }

    def _gaps(self, names: Mapping[ir.Value, str], found: Sequence[Values]) -> dict[ir.Value, Difference]:
        expected = [original.values for original in self._originals]
        return {value: self._gap(name_of(value), name, expected, found) for value, name in names.items()}

    def _gap(self, ours: str, theirs: str, expected: Sequence[Values], found: Sequence[Values]) -> Difference:
        """How far apart a value and its counterpart are, over all inputs."""
        pairs = zip(expected, found, strict=True)
        every = [(a.of(ours), b.of(theirs)) for a, b in pairs]
        return difference([x for a, _ in every for x in a], [x for _, b in every for x in b])

    def _is_near(self, value: ir.Value, gap: Difference) -> bool:
        return gap.max_rel <= self._originals[0].bound(name_of(value))

    def _own_difference(
        self, watched: Watched, value: ir.Value, gap: Difference, decisions: frozenset[str]
    ) -> float:
        """What onnxruntime's own optimisation changes in a value, where that is needed; else 0."""
        if self._is_near(value, gap):
            return 0.0
        return max(o.own_difference(name_of(value), decisions, watched.names) for o in self._originals)

    def _verdict(
        self,
        scope: str,
        watched: Watched,
        value: ir.Value,
        gap: Difference,
        decisions: frozenset[str],
        others: Mapping[ir.Value, Verdict],
    ) -> Verdict:
        """What the difference of a value and its counterpart means.

        Args:
            scope: what was compared.
            watched: what is compared.
            value: the value.
            gap: how far apart the two are.
            decisions: those of the original that both were given.
            others: the verdicts on the values that stand in for it, if any do.
        """
        name, output = name_of(value), watched.values[value]
        of_value = "" if value is output else name
        limit = self._originals[0].bound(name)
        rule = Rule.RELATIVE if limit else Rule.EQUAL
        near = self._is_near(value, gap)
        if watched.stands_in(value):
            if near and self._tells_by(value, limit):
                return measured(scope, name, gap, limit, rule, passed=True)
            passed = not gap.note and all(others[each] for each in watched.before[value])
            return measured(scope, name, gap, limit, Rule.BEFORE, passed=passed)
        own = self._own_difference(watched, value, gap, decisions)
        if math.isfinite(own) and OWN_DIFFERENCE_FACTOR * own > limit:
            limit, rule = OWN_DIFFERENCE_FACTOR * own, Rule.OWN
        informative = not self._heads.told(value) or self._tells_by(value, limit)
        if not informative and rule is Rule.OWN:
            self._vague.add(value)
        note = "" if informative else self._too_little(value, output, limit, rule)
        return measured(
            scope,
            name_of(output),
            gap,
            limit,
            rule,
            passed=gap.max_rel <= limit,
            note=note,
            value=of_value,
            informative=informative,
        )

    def _tells_by(self, value: ir.Value, allowed: float) -> bool:
        return any(original.tells(name_of(value), allowed) for original in self._originals)

    def _too_little(self, value: ir.Value, output: ir.Value, allowed: float, rule: Rule) -> str:
        """Why a value can't tell whether two models agree."""
        name = name_of(value)
        what = f"output {name}" if value is output else f"{name}, which output {name_of(output)} is made of,"
        found = max(original.change(name) for original in self._originals)
        if not found:
            why = "none of the test inputs changes it"
        else:
            why = f"the test inputs change it by {found:.1e} of its largest value, {allowed:.1e} is allowed"
            if rule is Rule.OWN:
                why += f" ({OWN_DIFFERENCE_FACTOR:g} times what onnxruntime's own optimisation changes)"
        return f"{what} tells too little to compare models by: {why}; inputs as in use may tell more"

    # ------------------------------------------------------------ other inputs, and random ones

    def _found_others(self, checks: Sequence[Verdict], watched: Watched) -> bool:
        """Tries the inputs in other ranges, once, where a value tells too little; whether some tell more."""
        silent = {c.value or c.output: 0.0 for c in checks if not c.informative}
        if self._tried_others or not silent:
            return False
        self._tried_others = True
        for check in checks:
            name = check.value or check.output
            if name in silent:
                silent[name] = max(silent[name], check.allowed)
        names = sorted(watched.names)
        for other in self._reference.others():
            try:
                other.values.find(names)
                if not all(finite(output) for name in names for output in other.values.of(name)):
                    continue
            except InputError:
                continue
            told = [name for name, allowed in silent.items() if other.tells(name, allowed)]
            if told:
                self._originals.append(other)
                where = ", ".join(told)
                self._notes.append(f"compared on inputs in another range too, where {where} tells more")
                silent = {name: allowed for name, allowed in silent.items() if name not in told}
            if not silent:
                break
        return len(self._originals) > 1

    def _without_random(self, checks: Sequence[Verdict]) -> Verification:
        """Failed checks, less those of values in which the original itself differs from run to run."""
        names = list(dict.fromkeys(check.value or check.output for check in checks))
        vary = random(exposed(self._reference.parts, names), self._reference.feeds).intersection(names)
        if not vary:
            return Verification(tuple(checks), tuple(self._notes))
        left = tuple(check for check in checks if (check.value or check.output) not in vary)
        note = f"not compared, since the original itself is random there: {', '.join(sorted(vary))}"
        return Verification(left, (*self._notes, note))


def _of_one_shape(one: Output, other: Output) -> bool:
    return isinstance(one, list) or isinstance(other, list) or one.shape == other.shape

"""How a model came about, in its own metadata: what graphopt puts there, and reads back.

Each run that changes a model adds one record to its ``metadata_props`` and leaves every other entry as it is,
so that the records of earlier runs stay. The keys of a record are ``graphopt.N.ID.FIELD``: N counts the runs,
and ID is a digest of what the record holds. So keys are unique, also when two rewritten models are merged
(`onnx.compose.merge_models` refuses two values of one key), and a record that was changed afterwards is found
out. Whoever changes one on purpose can make an ID that fits: it is no signature.

    graphopt.1.5f0c2a9e.version       0.1.0
    graphopt.1.5f0c2a9e.input_sha256  of the file that the run read, external data apart
    graphopt.1.5f0c2a9e.input_data    digests of its external data, by file; only where there is any
    graphopt.1.5f0c2a9e.options       {"aim":"time","budget":{"macs":0.5},"seed":0}
    graphopt.1.5f0c2a9e.rewrites      [{"exactness":"exact","nodes":["conv1"],"rewrite":"fold_affine"}]

Nothing in a record differs between two runs of one input with the same options: no time, no path, no machine.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from graphopt.errors import InputError
from graphopt.types import Candidate, Exactness

PREFIX = "graphopt"
"""What the keys of all records begin with."""
FIELDS = ("version", "input_sha256", "options", "rewrites")
"""What every record holds."""
KEY = re.compile(rf"{PREFIX}\.(?P<run>[0-9]{{1,9}})\.(?P<digest>[0-9a-f]{{8}})\.(?P<field>[a-z0-9_]+)")
LAST = 10**9 - 1
"""The highest number of a run."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """All that one rewrite did in a run.

    Attributes:
        rewrite: its name.
        exactness: what it promises: ``exact``, ``approximate`` or ``expanding``.
        nodes: the node that it was applied at, each time.
        choices: what was chosen there, such as ``{"rank_in": 32}``; empty for an exact rewrite.
    """

    rewrite: str
    exactness: str
    nodes: tuple[str, ...]
    choices: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One run of graphopt that changed the model.

    Attributes:
        version: graphopt's.
        input_sha256: digest of the model that the run read; that of its file, external data apart, or of the
            serialised model when it was given in memory.
        options: what was asked for; what is missing stood at its default.
        rewrites: what was done.
        input_data: digests of the input's external data, by file.
    """

    version: str
    input_sha256: str
    options: Mapping[str, object]
    rewrites: tuple[Rewritten, ...]
    input_data: Mapping[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------- made


def rewritten(applied: Iterable[tuple[Candidate, Exactness]]) -> tuple[Rewritten, ...]:
    """What a run applied, put together by rewrite, in the order in which each came first."""
    by_rewrite: dict[tuple[str, Exactness], list[Candidate]] = {}
    for candidate, exactness in applied:
        by_rewrite.setdefault((candidate.rewrite, exactness), []).append(candidate)
    return tuple(
        Rewritten(
            name,
            exactness.value,
            tuple(candidate.site.nodes[0] for candidate in found),
            () if exactness is Exactness.EXACT else tuple(dict(candidate.choice) for candidate in found),
        )
        for (name, exactness), found in by_rewrite.items()
    )


def entries(record: Record, present: Iterable[str]) -> dict[str, str]:
    """The metadata entries of a record.

    Args:
        record: the run.
        present: the keys that the model has; none of them is used again.
    """
    values = {
        "version": record.version,
        "input_sha256": record.input_sha256,
        "options": _json(record.options),
        "rewrites": _json([_described(item) for item in record.rewrites]),
    }
    if record.input_data:
        values["input_data"] = _json(record.input_data)
    runs = [int(found["run"]) for key in present if (found := KEY.fullmatch(key))]
    lead = f"{PREFIX}.{min(max(runs, default=0) + 1, LAST)}.{_digest(values)}"
    return {f"{lead}.{name}": value for name, value in sorted(values.items())}


def size(made: Mapping[str, str]) -> int:
    """Bytes that entries take in a file, to within a few."""
    return sum(len(key) + len(value.encode()) + 10 for key, value in made.items())


def described(record: Record) -> dict[str, object]:
    """A record as a document."""
    return {
        "version": record.version,
        "input_sha256": record.input_sha256,
        "input_data": dict(record.input_data),
        "options": dict(record.options),
        "rewrites": [_described(item) for item in record.rewrites],
    }


def _described(item: Rewritten) -> dict[str, object]:
    made: dict[str, object] = {
        "rewrite": item.rewrite,
        "exactness": item.exactness,
        "nodes": list(item.nodes),
    }
    return {**made, "choices": [dict(choice) for choice in item.choices]} if item.choices else made


def _json(value: object) -> str:
    """Compact, sorted and in ASCII, so that names of any kind can be stored."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: object) -> object:
    """A NumPy number as Python's; of anything else its kind, since its text may differ from run to run."""
    try:
        return value.item()  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):  # ValueError: an array of several
        return type(value).__name__


def _digest(values: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()[:8]


# ---------------------------------------------------------------- read


def read(metadata: Mapping[str, str], where: str = "the model") -> tuple[Record, ...]:
    """The records in a model's metadata, oldest first. Entries that are none of a record's are passed over.

    Args:
        metadata: ``metadata_props`` by key, as of an `onnx_ir.Model`; onnxruntime has the same in
            ``session.get_modelmeta().custom_metadata_map``.
        where: what to call the model in a message.

    Raises:
        InputError: a record is incomplete, was changed, or can't be understood.
    """
    found: dict[tuple[int, str], dict[str, str]] = {}
    for key, value in metadata.items():
        if match := KEY.fullmatch(key):
            found.setdefault((int(match["run"]), match["digest"]), {})[match["field"]] = value
    return tuple(
        _record(f"{where}: metadata {PREFIX}.{run}.{digest}", digest, found[run, digest])
        for run, digest in sorted(found)
    )


def _record(lead: str, digest: str, values: Mapping[str, str]) -> Record:
    missing = next((name for name in FIELDS if name not in values), None)
    if missing is not None:
        raise InputError(f"{lead}: {missing} is missing, so the record can't be relied on")
    if _digest(values) != digest:
        raise InputError(f"{lead}: was changed since graphopt wrote it, so the record can't be relied on")
    try:
        options, rewrites, data = (
            json.loads(values.get(name, "{}")) for name in ("options", "rewrites", "input_data")
        )
        return Record(
            values["version"],
            values["input_sha256"],
            _mapping(options),
            tuple(_rewritten(_mapping(item)) for item in rewrites),
            {str(name): str(value) for name, value in _mapping(data).items()},
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{lead}: is no record that graphopt wrote ({type(error).__name__})") from error


def _rewritten(item: Mapping[str, object]) -> Rewritten:
    nodes, choices = item["nodes"], item.get("choices", [])
    if not isinstance(nodes, list) or not isinstance(choices, list):
        raise TypeError("expected lists")
    return Rewritten(
        str(item["rewrite"]),
        str(item["exactness"]),
        tuple(str(name) for name in nodes),
        tuple(_mapping(choice) for choice in choices),
    )


def _mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError("expected a mapping")
    return value


def reads(record: Record, sha256: str, data: Mapping[str, str]) -> bool:
    """Whether a model of these digests is what the run read.

    Args:
        record: of one run.
        sha256: digest of a model's file.
        data: digests of its external data, by name.

    Returns:
        True where both are the record's.
    """
    return record.input_sha256 == sha256 and dict(record.input_data) == dict(data)


def which(records: Sequence[Record], sha256: str, data: Mapping[str, str]) -> int | None:
    """The number of the first run, from 1, that read a model of these digests.

    Args:
        records: of the runs, in order.
        sha256: digest of a model's file.
        data: digests of its external data, by name.

    Returns:
        The number, or None where no run did.
    """
    return next((n for n, record in enumerate(records, start=1) if reads(record, sha256, data)), None)

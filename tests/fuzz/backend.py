"""The backend tests that the onnx wheel ships: what onnxruntime passes, it passes after `optimize`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

import graphopt
from graphopt.errors import GraphOptError, InputError
from tests.builders import session
from tests.fuzz.checking import SECONDS, Finding, HangError, limited, place

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
FOLDERS = ("simple", "pytorch-operator", "pytorch-converted")
AIMS = ("macs", "time")
RTOL, ATOL = 1e-3, 1e-5
"""What onnx's own runner allows where a test says nothing else: 1e-3 of a value, 1e-7 besides. The second is
wider here, for sums of some thousand terms in another order."""


@dataclass(frozen=True)
class Case:
    """A backend test.

    Attributes:
        name: of the test.
        model: its model.
        data: inputs and outputs, in the order of the model, of each set.
        rtol: relative difference that passes.
        atol: absolute difference that passes.
    """

    name: str
    model: onnx.ModelProto
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float = RTOL
    atol: float = ATOL


def stored(folders: Sequence[str] = FOLDERS) -> Iterator[Case]:
    """Tests that are stored as files: simple ones and converted ones."""
    for folder in folders:
        for path in sorted((DATA / folder).glob("*/model.onnx")):
            model = onnx.load(path)
            sets = sorted(path.parent.glob("test_data_set_*"))
            data = [
                (_values(model.graph.input, s, "input"), _values(model.graph.output, s, "output"))
                for s in sets
            ]
            yield Case(f"{folder}/{path.parent.name}", model, data)


def _values(ports: Sequence[onnx.ValueInfoProto], folder: Path, kind: str) -> list[Any]:
    """The stored inputs or outputs of one set."""
    found = []
    for number, port in enumerate(ports):
        path = folder / f"{kind}_{number}.pb"
        if not path.exists():
            break
        content = path.read_bytes()
        if port.type.HasField("sequence_type"):
            found.append(numpy_helper.to_list(onnx.SequenceProto.FromString(content)))
        elif port.type.HasField("optional_type"):
            found.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(content)))
        else:
            found.append(numpy_helper.to_array(onnx.TensorProto.FromString(content)))
    return found


def made() -> Iterator[Case]:
    """Tests of single operators, which onnx makes by running its own definitions: some seconds."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            yield Case(f"node/{case.name}", case.model, case.data_sets, case.rtol, max(case.atol, ATOL))


def check(case: Case, seconds: float = SECONDS) -> Finding:
    """Whether onnxruntime passes a test after `optimize` that it passes before, with both aims."""
    if not case.data or _failing(case.model, case):
        return Finding("unrunnable")
    applied: dict[str, int] = {}
    stopped: list[tuple[str, str]] = []
    for aim in AIMS:
        try:
            with limited(seconds):
                result = graphopt.optimize(case.model, aim=aim)
        except HangError:
            return Finding("hang", f"{case.name}, aim {aim}")
        except InputError as error:
            return Finding("refused", f"{case.name}, aim {aim}: {error}")
        except (GraphOptError, Exception) as error:
            return Finding("internal", f"{case.name}, aim {aim}: {place(error)}")
        for item in result.report.applied:
            applied[item.candidate.rewrite] = applied.get(item.candidate.rewrite, 0) + 1
        stopped += [
            (x.rewrite, x.reason) for x in result.report.declined if "failed verification" in x.reason
        ]
        failing = _failing(ir.to_proto(result.model), case) if result.report.changed else ""
        if failing:
            return Finding("wrong", f"{case.name}, aim {aim}: {failing}", tuple(stopped), applied)
    return Finding("right", "", tuple(stopped), applied)


def _failing(model: onnx.ModelProto, case: Case) -> str:
    """Why onnxruntime does not pass the test with a model; "" where it does."""
    try:
        running = session(model, optimised=True)
        names = [value.name for value in running.get_inputs()]
        for inputs, outputs in case.data:
            found = running.run(None, dict(zip(names, inputs, strict=False)))
            for expected, value in zip(outputs, found, strict=True):
                if not _equal(expected, value, case):
                    return "other outputs"
    except Exception as error:  # whatever onnxruntime raises
        return str(error)[:200]
    return ""


def _equal(expected: Any, value: Any, case: Case) -> bool:
    if isinstance(expected, list):
        return len(expected) == len(value) and all(
            _equal(a, b, case) for a, b in zip(expected, value, strict=True)
        )
    if expected is None or value is None:
        return expected is value
    one, two = np.asarray(expected), np.asarray(value)
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    if one.dtype.kind not in "fc":
        return bool(np.array_equal(one, two))
    return bool(np.allclose(one, two, case.rtol, case.atol, equal_nan=True))

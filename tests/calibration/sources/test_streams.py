"""What yields calibration inputs: readers, loaders, generators; each as the same arrays given at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnxruntime.quantization import CalibrationDataReader

import graphopt
from graphopt.calibration import inputs
from graphopt.calibration.samples import Samples
from graphopt.calibration.sources import streams
from graphopt.errors import InputError
from tests.builders import Net, classifier, samples

Array = npt.NDArray[Any]
X = samples(9)
LABELS = np.arange(9)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Of onnxruntime, with a sample at a time."""

    def __init__(self) -> None:
        self._left = iter([{"x": X[i : i + 1]} for i in range(9)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._left, None)


class OnlyGetNext:
    """A reader that is no iterator, as those of other tools."""

    def __init__(self) -> None:
        self.get_next = Reader().get_next


class Loader:
    """Yields batches of inputs and labels, as loaders do, each in the memory of the one before."""

    def __iter__(self) -> Iterator[list[Array]]:
        buffer = np.empty_like(X[:3])
        for start in (0, 3, 6):
            buffer[:] = X[start : start + 3]
            yield [buffer, LABELS[start : start + 3]]


class Tensor:
    """A tensor that needs gradients, or lies on a GPU: NumPy can't have it as it is."""

    def __init__(self, array: Array) -> None:
        self._array, self._steps = array, list[str]()

    def detach(self) -> Tensor:
        self._steps.append("detached")
        return self

    def cpu(self) -> Tensor:
        self._steps.append("copied")
        return self

    def numpy(self) -> Array:
        assert self._steps == ["detached", "copied"]
        return self._array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        raise TypeError("can't convert it: detach it first")


SOURCES: dict[str, Callable[[], Any]] = {
    "a reader of onnxruntime": Reader,
    "a reader that is no iterator": OnlyGetNext,
    "batches with labels": Loader,
    "samples with numbers as labels": lambda: ((each, 3) for each in X),
    "samples with names as labels": lambda: [[each, "cat"] for each in X],
    "a generator of samples without a batch": lambda: (each for each in X),
    "a generator of dictionaries": lambda: ({"x": each[None]} for each in X),
    "dictionaries without a batch": lambda: ({"x": each} for each in X),
    "dictionaries of lists": lambda: ({"x": each.tolist()} for each in X),
    "tensors": lambda: (Tensor(each) for each in X),
    "a tensor": lambda: Tensor(X),
    "a list of tensors": lambda: [Tensor(each) for each in X],
    "arrays and dictionaries": lambda: [X[:4], {"x": X[4:]}],
}


def network() -> ir.Model:
    return ir.from_proto(classifier())


def read(given: Any, of: ir.Model | None = None) -> Samples:
    found, _ = inputs.read(given, of or network())
    return found


@pytest.mark.parametrize("make", SOURCES.values(), ids=list(SOURCES))
def test_each_gives_the_inputs_of_the_arrays_at_once(make: Callable[[], Any]) -> None:
    np.testing.assert_array_equal(read(make()).joined()["x"], X)


def test_a_run_with_a_generator_is_the_run_with_the_array() -> None:
    given = samples(16)
    results = [
        graphopt.optimize(classifier(), {"macs": 0.8}, each) for each in (given, (each for each in given))
    ]
    first, second = (ir.to_proto(each.model).SerializeToString() for each in results)
    assert results[0].report.changed and first == second


def test_it_is_read_once_and_no_further_than_the_limit() -> None:
    yielded = []

    def endless() -> Iterator[Array]:
        while True:
            yielded.append(len(yielded))
            yield X[len(yielded) % 9]

    found, unread = streams.gathered(endless(), ["x"], most=5 * X[0].nbytes)
    assert len(found) == 5 and yielded == list(range(6))
    assert unread.startswith("5 items, the first ") and "of what generator yields" in unread


def test_what_was_left_unread_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.gathered, "__defaults__", (12 * X[0].nbytes,))
    given = samples(16)
    report = graphopt.optimize(classifier(), {"macs": 0.9}, iter(given), force=True).report
    assert any(note.startswith("calibration: 12 items, the first ") for note in report.notes)
    assert report.quality is not None and report.quality.samples == 3


def test_several_inputs_by_name_or_in_order_with_labels_after_them() -> None:
    proto = two_inputs("b", 4)
    of, a, b = ir.from_proto(proto), X[:, 0, 0, :4], X[:, 1, 0, :4]
    for given in (
        [(a, b)],
        (each for each in zip(a, b, LABELS.astype(np.float32), strict=True)),
        ({"b": y, "a": x} for x, y in zip(a, b, strict=True)),
    ):
        found = read(given, of).joined()
        np.testing.assert_array_equal(found["a"], a)
        np.testing.assert_array_equal(found["b"], b)
    with pytest.raises(InputError, match=r"calibration\[0\]: 1 arrays, and .* the inputs 'a', 'b'"):
        read(iter([(a,)]), of)
    with pytest.raises(InputError, match=r"a list of arrays, and .* inputs 'a', 'b': name them"):
        read(iter([a]), of)


def two_inputs(name: str, size: int) -> onnx.ModelProto:
    """A model that adds one input to another."""
    net = Net(opset=17)
    return net.model(net.op("Add", net.input(["N", 4], "a"), net.input(["N", size], name)))


def failing() -> Iterator[Array]:
    """Yields one sample, then fails."""
    yield X[0]
    raise RuntimeError("disk\nis gone")


USED = iter(X)
list(USED)
WRONG: dict[str, tuple[Any, str]] = {
    "a number": (5, "expected a path, an array, arrays by input name, or what yields those"),
    "nothing": (None, "and not NoneType"),
    "a list of nothing": ([None], r"calibration\[0\]: expected an array, .*, and not NoneType"),
    "a list of numbers": ([1.0], r"calibration\[0\]: expected an array, .*, and not float"),
    "texts": (iter(["a"]), r"calibration\[0\]: expected an array, .*, and not str"),
    "an empty list": ([], "the list is empty"),
    "an iterator at its end": (USED, "yields nothing, or was read to its end before"),
    "one that fails": (failing(), "generator failed at item 1: RuntimeError: disk is gone"),
    "labels alone": (iter([(3, 4)]), r"calibration\[0\]: expected an array, .*, and not tuple"),
    "ragged lists": (iter([{"x": [[1], [1, 2]]}]), r"calibration\[0\]\['x'\]: list is no array: ValueError"),
    "another name": (iter([{"x": X[0], "y": X[0]}]), r"calibration\[0\]: the model has no input 'y'"),
    "another shape": (iter([X[0, :3]]), r"calibration\[0\]: .* has shape \[3, 8, 8\]"),
}


@pytest.mark.parametrize(("given", "why"), WRONG.values(), ids=list(WRONG))
def test_what_is_no_input_is_refused_with_its_place(given: Any, why: str) -> None:
    with pytest.raises(InputError, match=why) as refused:
        read(given)
    assert "\n" not in str(refused.value)


def test_ctrl_c_in_a_loader_is_no_error_of_inputs() -> None:
    def interrupted() -> Iterator[Array]:
        yield X[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(interrupted())


def test_a_number_for_each_sample_lies_beside_it() -> None:
    proto = two_inputs("s", 1)
    given = ({"a": each, "s": np.float32([i])} for i, each in enumerate(X[:, 0, 0, :4]))
    found = read(given, ir.from_proto(proto)).joined()
    assert found["s"].ravel().tolist() == list(range(9))


def test_a_folder_of_a_dataset_needs_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("dataset_info.json", "state.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"needs graphopt\[datasets\]: pip install 'datasets>="):
        read(tmp_path)

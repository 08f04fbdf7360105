"""What `import graphopt` offers: the functions, what they take, what they return and what they raise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphopt
from graphopt import Budget, GraphOptError, InputError
from tests.builders import classifier, conv_bn, nothing_to_do, run, samples, saved


def every_form(proto: onnx.ModelProto, folder: Path) -> dict[str, Any]:
    path = saved(proto, folder / "model.onnx")
    return {"Path": path, "str": str(path), "ModelProto": proto, "ir.Model": ir.from_proto(proto)}


def serialized(given: Any) -> bytes:
    if isinstance(given, (str, Path)):
        return Path(given).read_bytes()
    proto = ir.to_proto(given) if isinstance(given, ir.Model) else given
    return bytes(proto.SerializeToString(deterministic=True))


# --- models in every form -----------------------------------------------------------------------------------


def test_every_form_of_a_model_gives_the_same(tmp_path: Path) -> None:
    forms = every_form(classifier(), tmp_path)
    results = {}
    for name, given in forms.items():
        before = serialized(given)
        assert graphopt.scan(given).totals.macs == 16 * 64 * 72 + 16 * 16 * 144 + 80
        result = graphopt.optimize(given, {"macs": 0.6}, samples(8), force=True)
        assert graphopt.verify(given, given)
        graphopt.bench(given, result.model, repeat=1)
        assert serialized(given) == before, f"{name} was changed"
        result.save(tmp_path / f"{name}.out")
        results[name] = (tmp_path / f"{name}.out").read_bytes()
    assert len(set(results.values())) == 1


def test_nothing_to_do_returns_the_given_model(tmp_path: Path) -> None:
    for name, given in every_form(nothing_to_do(), tmp_path).items():
        result, out = graphopt.optimize(given), tmp_path / f"{name}.out"
        assert not result
        result.save(out)
        found, wanted = (run(each, {"x": samples(1)})[0] for each in (onnx.load(out), nothing_to_do()))
        np.testing.assert_array_equal(found, wanted)


def test_the_result_is_the_callers_own() -> None:
    given = ir.from_proto(conv_bn())
    result = graphopt.optimize(given)
    assert result.model is not given
    for node in result.model.graph:
        node.name = "mine"
    assert [node.name for node in given.graph] == ["conv", "bn", "relu"]


# --- results ------------------------------------------------------------------------------------------------


def test_save_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = graphopt.optimize(conv_bn())
    out = tmp_path / "out.onnx"
    out.write_bytes(b"older")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graphopt.model.wire_format.write", full)
    with pytest.raises(InputError, match="No space left"):
        result.save(out)
    assert out.read_bytes() == b"older"
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


def test_save_refuses_the_input(folded: Path) -> None:
    with pytest.raises(InputError, match="is the input"):
        graphopt.optimize(folded).save(folded)


def test_save_notices_an_input_that_changed(folded: Path, tmp_path: Path) -> None:
    result = graphopt.optimize(folded)
    folded.unlink()
    saved(classifier(), folded)
    with pytest.raises(InputError, match="changed while it was in use"):
        result.save(tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_the_library_prints_nothing(capfd: pytest.CaptureFixture[str], scores: Path, tmp_path: Path) -> None:
    graphopt.scan(scores)
    graphopt.optimize(scores, {"macs": 0.6}, samples(8), force=True).save(tmp_path / "out.onnx")
    graphopt.verify(scores, tmp_path / "out.onnx")
    graphopt.bench(scores, scores, repeat=1)
    assert capfd.readouterr() == ("", "")


# --- options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"macs": 0.6}, Budget(macs=0.6), {"macs": np.float64(0.6)}])
def test_a_budget_is_a_mapping_or_a_budget(budget: Any) -> None:
    report = graphopt.optimize(classifier(), budget).report
    assert report.after.macs <= 0.6 * report.before.macs


@pytest.mark.parametrize(
    "budget",
    [
        *({"macs": 0}, {"macs": -1}, {"params": 1.01}, {"bytes": float("nan")}, {"speed": 0.5}),
        *({"latency": 1.5}, {"metric": 0.5}, {"agreement": 0.9}, {"sqnr": 20}),
        *(Budget(macs=2.0), Budget(macs=0.0), Budget(sqnr=20.0)),
    ],
)
def test_bad_budgets(budget: Any) -> None:
    with pytest.raises(InputError, match=r"^budget=\{'"):
        graphopt.optimize(classifier(), budget)


@pytest.mark.parametrize("budget", [{"sqnr": -3}, {"agreement": 1.5}, {"macs": 0.5}, Budget(agreement=0.0)])
def test_bad_budgets_of_verify(budget: Any) -> None:
    with pytest.raises(InputError, match=r"^budget=\{'"):
        graphopt.verify(classifier(), classifier(), samples(8), budget=budget)


def test_a_quality_above_one_is_decibels_alone() -> None:
    assert graphopt.verify(classifier(), classifier(), samples(8), budget={"sqnr": 120, "agreement": 1})


@pytest.mark.parametrize(
    "options",
    [
        *({"aim": "size"}, {"gate": "memory"}, {"only": ["fold"]}, {"skip": ["fold"]}),
        *({"only": ["bottleneck"]}, {"options": {"bottleneck.rank": 3}}, {"outputs": ["z"]}),
        *({"options": {"bottleneck.rank_in": value}} for value in ("many", -3)),
        *({"shapes": {"x": [1, 8, 9, 8]}}, {"shapes": {"image": [1]}}),
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        graphopt.optimize(classifier(), **options)


@pytest.mark.parametrize("axis", [-1, True, "first", [0], {"x": None}, {"z": 0}, {"x": 9}, 9])
def test_samples_along_what_is_no_axis(axis: Any) -> None:
    calls = (
        lambda: graphopt.optimize(classifier(), None, samples(8), sample_axis=axis),
        lambda: graphopt.sweep(classifier(), samples(8), [0.7], sample_axis=axis),
        lambda: graphopt.verify(classifier(), classifier(), samples(8), sample_axis=axis),
    )
    for call in calls:
        with pytest.raises(InputError, match=r"^sample_axis="):
            call()


def test_the_axis_of_samples_is_a_number_by_input_or_alone() -> None:
    for axis in (0, np.int64(0), {"x": 0}, {"x": np.int64(0)}):
        assert graphopt.verify(classifier(), classifier(), samples(8), sample_axis=axis)
    with pytest.raises(InputError, match="give calibration"):
        graphopt.optimize(classifier(), sample_axis=0)


@pytest.mark.parametrize("options", [{"threads": 0}, {"repeat": 0}, {"provider": "Abacus"}])
def test_bad_options_of_bench(options: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        graphopt.bench(classifier(), classifier(), **options)


def test_options_may_be_values_or_text() -> None:
    for rank in (4, "4"):
        options = {"bottleneck.rank_in": rank}
        report = graphopt.optimize(classifier(), only=["bottleneck"], options=options).report
        assert {item.candidate.choice["rank_in"] for item in report.applied} == {4}


def test_bench_repeats_and_bounds() -> None:
    found = graphopt.bench(conv_bn(), conv_bn(), repeat=7, threads=2)
    assert (found.repeat, found.threads, found.provider) == (7, 2, "CPUExecutionProvider")
    assert found.inputs == {"x": (1, 8, 8, 8)}
    assert found.spread[0] <= found.speedup <= found.spread[1]
    assert found.reference_ms > 0 and found.candidate_ms > 0


# --- the package --------------------------------------------------------------------------------------------


def test_every_public_name_is_there() -> None:
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None
    assert set(graphopt.__all__) <= set(dir(graphopt))
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        _ = graphopt.optimise


def test_every_error_is_a_graphopt_error_with_an_exit_code() -> None:
    codes = {name: getattr(graphopt, name).exit_code for name in graphopt.__all__ if name.endswith("Error")}
    assert codes == {"GraphOptError": 70, "InputError": 2, "VerificationError": 1, "BudgetError": 3}
    assert all(issubclass(getattr(graphopt, name), GraphOptError) for name in codes)


def test_importing_is_light() -> None:
    code = "import graphopt, sys; sys.exit(any(m in sys.modules for m in ('onnx', 'onnxruntime', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_measure_is_named() -> None:
    with pytest.raises(InputError, match=r"expected a ready measure's name or package\.module:function"):
        graphopt.optimize(classifier(), {"macs": 0.8}, samples(8), metric=len)  # type: ignore[arg-type]

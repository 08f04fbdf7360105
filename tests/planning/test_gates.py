"""Gates: how they are written, what they are judged on, and how a run ends that fails one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import onnx
import pytest

import graphopt
from graphopt.planning import gates
from tests.builders import conv_bn, nothing_to_do, samples, saved
from tests.command import cli


def judged(document: Mapping[str, object], key: str) -> Mapping[str, object]:
    """The document's outcome of one gate."""
    listed = document["gates"]
    assert isinstance(listed, list)
    (found,) = [item for item in listed if item["key"] == key]
    return found


# --- how they are written -----------------------------------------------------------------------------------


def test_every_key_of_a_budget_is_one_of_a_gate() -> None:
    texts = ["macs<=0.8", "params<=1", "bytes<=1.05", "latency<=0.9"]
    texts += ["agreement>=0.99", "sqnr>=30", "metric>=-2.5"]
    assert [str(gate) for gate in gates.parse(texts)] == texts
    assert {gate.key for gate in gates.parse(texts)} == set(gates.KEYS)


def test_spaces_do_not_matter() -> None:
    assert gates.parse([" macs <= 0.8 "]) == (gates.Gate("macs", 0.8),)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("macs>=0.8", "did you mean macs<=0.8?"),
        ("macs=0.8", "did you mean macs<=0.8?"),
        ("macs<0.8", "did you mean macs<=0.8?"),
        ("agreement<=0.99", "did you mean agreement>=0.99?"),
        ("mac<=0.8", "did you mean macs?"),
        ("speed<=0.8", "there are macs, params, bytes, latency, agreement, sqnr, metric"),
        ("macs<=80", "did you mean macs<=0.8?"),
        ("agreement>=99", "did you mean agreement>=0.99?"),
        ("agreement>=2", "did you mean agreement>=0.02?"),
        ("macs<=80%", "did you mean macs<=0.8?"),
        ("macs<=few", "'few' is no number"),
        ("macs<=nan", "expected a part of the input's"),
        ("macs<=0", "expected a part of the input's"),
        ("sqnr>=-3", "a positive number of dB"),
        ("metric>=inf", "expected a number"),
        ("macs", "write it in quotes: 'macs<=LIMIT'"),
        ("sqnr", "write it in quotes: 'sqnr>=LIMIT'"),
        ("", "such as macs<=0.8"),
        ("<=0.8", "such as macs<=0.8"),
    ],
)
def test_what_is_no_gate_is_refused_with_a_suggestion(
    scores: Path, tmp_path: Path, text: str, hint: str
) -> None:
    cli("optimize", scores, "-o", tmp_path / "out.onnx", "--require", text).refused(hint, f"--require {text}")
    assert not (tmp_path / "out.onnx").exists()


def test_one_gate_needs_no_list() -> None:
    assert gates.parse("macs<=0.8") == gates.parse(["macs<=0.8"])


@pytest.mark.parametrize(
    ("text", "measured", "figure"),
    [
        ("macs<=0.8", 0.5, "0.5000"),
        ("macs<=0.8", 0.8, "0.8000"),
        ("macs<=0.8", 0.80000123, "0.800001"),
        ("agreement>=0.99", 0.98999, "0.98999"),
        ("sqnr>=30", 29.9999, "29.9999 dB"),
        ("sqnr>=30", float("inf"), "equal"),
        ("metric>=1000000", 999999.99, "999999.99"),
        ("latency<=1", None, "not measured"),
    ],
)
def test_a_figure_is_never_shown_as_the_limit_that_it_misses(
    text: str, measured: float | None, figure: str
) -> None:
    (gate,) = gates.parse([text])
    assert gate.judge(measured).figure == figure


@pytest.mark.parametrize("text", ["macs<=0.9999999", "macs<=1", "sqnr>=1e+06", "metric>=123456.789"])
def test_a_limit_is_shown_as_it_was_given(text: str) -> None:
    (gate,) = gates.parse([text])
    assert str(gate) == text


def test_what_is_not_measured_does_not_pass() -> None:
    (gate,) = gates.parse(["sqnr>=1"])
    assert not gate.judge(None) and not gate.judge(float("nan"))


def test_a_key_is_given_once() -> None:
    with pytest.raises(graphopt.InputError, match="required already"):
        gates.parse(["macs<=0.8", "macs<=0.9"])


@pytest.mark.parametrize(
    ("text", "missing"),
    [("agreement>=0.9", "--calibration"), ("sqnr>=20", "--calibration"), ("metric>=1", "--metric")],
)
def test_what_a_gate_is_measured_with_has_to_be_there(scores: Path, text: str, missing: str) -> None:
    cli("optimize", scores, "--dry-run", "--require", text).refused(missing)


def test_agreement_needs_class_scores(folded: Path) -> None:
    with pytest.raises(graphopt.InputError, match="require='agreement': no output holds class scores"):
        graphopt.optimize(folded, calibration=samples(8), require=["agreement>=0.9"])


def test_macs_need_every_size() -> None:
    sized = nothing_to_do(inputs={"x": [1, 8, "H", "W"]})
    with pytest.raises(graphopt.InputError, match=r"require='macs<=1': .*shapes=…"):
        graphopt.optimize(sized, require=["macs<=1"])
    assert graphopt.optimize(sized, require=["macs<=1"], shapes={"x": (1, 8, 9, 9)}).report.gates[0]


# --- what they are judged on --------------------------------------------------------------------------------


def test_gates_that_pass(scores: Path, inputs: Path, tmp_path: Path) -> None:
    required = ["macs<=0.7", "params<=0.8", "bytes<=0.9", "agreement>=0.25", "sqnr>=1"]
    flags = [flag for text in required for flag in ("--require", text)]
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    done = cli(
        *("optimize", scores, "-o", out, "--budget", "macs=0.6", "--calibration", inputs),
        *("--report", report, *flags),
    ).fine()
    document = json.loads(report.read_text())
    assert all(item["passed"] for item in document["gates"])
    assert [item["key"] for item in document["gates"]] == ["macs", "params", "bytes", "agreement", "sqnr"]
    assert judged(document, "macs")["measured"] == document["after"]["macs"] / document["before"]["macs"]
    assert judged(document, "bytes")["measured"] == out.stat().st_size / scores.stat().st_size
    assert judged(document, "agreement")["measured"] == document["quality"]["agreement"]
    sqnr = document["quality"]["sqnr"]
    assert judged(document, "sqnr") == {
        "key": "sqnr",
        "limit": 1.0,
        "measured": sqnr,
        "interval": document["quality"]["sqnr_interval"],
        "passed": True,
        "undecided": False,
        "needed": None,
    }
    assert document["options"]["require"] == required
    assert done.out.count("passed") == 5


def test_a_gate_that_fails_ends_with_3_and_no_model(scores: Path, inputs: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    out.write_bytes(b"older")
    done = cli(
        *("optimize", scores, "-o", out, "--budget", "macs=0.9", "--calibration", inputs, "--report", report),
        *("--require", "macs<=0.2", "--require", "sqnr>=400", "--require", "params<=1"),
    )
    assert done.code == 3
    assert out.read_bytes() == b"older"
    document = json.loads(report.read_text())
    assert document["exit_code"] == 3
    assert [item["passed"] for item in document["gates"]] == [False, False, True]
    assert f"macs<=0.2 ({judged(document, 'macs')['measured']:.4f})" in done.err
    assert f"sqnr>=400 ({judged(document, 'sqnr')['measured']:.2f} dB)" in done.err
    assert "params" not in done.err and done.err.count("\n") == 1
    assert "failed" in done.out


def test_a_missed_budget_and_a_failed_gate_are_both_named(scores: Path) -> None:
    with pytest.raises(graphopt.BudgetError) as failure:
        graphopt.optimize(scores, {"params": 0.001}, require=["macs<=0.001"])
    assert "the budget was not reached: params" in str(failure.value)
    assert "macs<=0.001" in str(failure.value)
    report = failure.value.result.report
    assert not report.gates[0] and not report.budget[0]
    assert report.budget[0].measured == report.after.params / report.before.params


def test_bytes_are_those_of_the_file_with_external_data(tmp_path: Path) -> None:
    big = conv_bn()
    given = saved(big, tmp_path / "in.onnx", save_as_external_data=True, location="in.bin", size_threshold=0)
    result = graphopt.optimize(given, require=["bytes<=10"])
    assert result.report.changed
    result.save(tmp_path / "out.onnx")
    written = sum((tmp_path / name).stat().st_size for name in ("out.onnx", "out.onnx.data"))
    allowance = len("model") - len("out")  # of the names of the data files, which the size depends on
    before = sum((tmp_path / name).stat().st_size for name in ("in.onnx", "in.bin"))
    measured = result.report.gates[0].measured
    assert measured is not None
    assert abs(measured * before - written) <= 8 * abs(allowance)


def test_latency_is_measured_where_nothing_else_did(folded: Path) -> None:
    assert graphopt.optimize(folded).report.latency is None
    result = graphopt.optimize(folded, require=["latency<=10"])
    timing = result.report.latency
    assert timing is not None and timing.threads == 1
    assert result.report.gates[0].measured == pytest.approx(timing.ratio)
    with pytest.raises(graphopt.BudgetError, match=r"latency<=0\.0001"):
        graphopt.optimize(folded, require=["latency<=0.0001"])


def test_a_model_with_nothing_to_do_is_as_fast_and_as_large(same: Path) -> None:
    result = graphopt.optimize(same, require=["latency<=1", "bytes<=1", "macs<=1", "params<=1"])
    assert [item.measured for item in result.report.gates] == [1.0, 1.0, 1.0, 1.0]
    with pytest.raises(graphopt.BudgetError, match=r"macs<=0.99 \(1.0000\)"):
        graphopt.optimize(same, require=["macs<=0.99"])


def test_quality_of_an_exact_result_is_judged_too(scores: Path) -> None:
    result = graphopt.optimize(scores, calibration=samples(16), require=["agreement>=1", "sqnr>=60"])
    assert result.report.changed and all(result.report.gates)


def test_the_own_metric_is_judged(folded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_measure.py").write_text(
        "import onnx\n\ndef operators(path):\n    return -len(onnx.load(path).graph.node)\n"
    )
    monkeypatch.chdir(tmp_path)
    own = "own_measure:operators"
    assert graphopt.optimize(folded, metric=own, require=["metric>=-2"]).report.gates[0].measured == -2.0
    with pytest.raises(graphopt.BudgetError, match=r"metric>=-1 \(-2\)"):
        graphopt.optimize(folded, metric=own, require=["metric>=-1"])


@pytest.mark.parametrize("returned", ["None", "'good'", "float('nan')", "[1, 2, 3]"])
def test_an_own_metric_returns_a_number(
    returned: str, folded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"measure_{len(returned)}"
    (tmp_path / f"{name}.py").write_text(f"def of(path):\n    return {returned}\n")
    monkeypatch.chdir(tmp_path)
    shown = returned.replace("float('nan')", "nan")
    said = re.escape(f"metric='{name}:of' returned {shown}, which is no finite")
    with pytest.raises(graphopt.InputError, match=said):
        graphopt.optimize(folded, metric=f"{name}:of")


@pytest.mark.parametrize("command", ["optimize", "run", "sweep"])
def test_what_an_own_metric_prints_stays_out_of_the_document(
    command: str, scores: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talkative.py").write_text("def of(path):\n    print('I am measuring')\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    recipe = f'[[models]]\nmodel = "{scores}"\nout = "out.onnx"\nmetric = "talkative:of"\n'
    (tmp_path / "recipe.toml").write_text(recipe)
    arguments = {
        "optimize": (scores, "--dry-run", "--metric", "talkative:of"),
        "run": ("recipe.toml",),
        "sweep": (scores, "--calibration", inputs, "--budgets", "0.9", "--metric", "talkative:of"),
    }
    done = cli(command, *arguments[command], "--json")
    assert done.code == 0 and "I am measuring" in done.err
    json.loads(done.out)


def test_an_expanding_rewrite_is_judged_too(same: Path) -> None:
    options = {"only": ["insert_pointwise"], "at": ["conv"]}
    assert graphopt.optimize(same, **options).report.changed
    with pytest.raises(graphopt.BudgetError, match="macs<=1"):
        graphopt.optimize(same, require=["macs<=1"], **options)


@pytest.mark.usefixtures("differing")
def test_nothing_passes_where_verification_fails(folded: Path) -> None:
    with pytest.raises(graphopt.VerificationError) as failure:
        graphopt.optimize(folded, require=["macs<=1", "latency<=9"])
    outcome = [(item.figure, item.passed) for item in failure.value.result.report.gates]
    assert outcome == [("not measured", False)] * 2


def test_a_gate_does_not_change_the_model(scores: Path, tmp_path: Path) -> None:
    for name, required in (("a", ()), ("b", ("macs<=1",))):
        graphopt.optimize(scores, require=required).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert onnx.load(tmp_path / "a").graph.node


def test_a_figure_that_is_infinite_is_told_in_words() -> None:
    found = gates.judge([gates.Gate("sqnr", 20.0)], {"sqnr": float("-inf")})
    assert gates.missed(found) == "sqnr nothing in common, at least 20 asked for"

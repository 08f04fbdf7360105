"""The command line: exit codes, one line for every error, what is written and what is left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import graphopt.api
from graphopt.errors import GraphOptError
from graphopt.rewrites import registry
from tests.builders import classifier, conv_bn, info, model, node, nothing_to_do, samples, saved, weight
from tests.command import Ran, cli, on_80_columns


def refused(*arguments: object, naming: str) -> None:
    cli(*arguments).refused(naming)


# --- exit code 0 --------------------------------------------------------------------------------------------


def test_optimize_writes_a_model_that_verifies(folded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    done = cli("optimize", folded, "-o", out).fine()
    assert [n.op_type for n in onnx.load(out).graph.node] == ["Conv", "Relu"]
    assert "fold_affine" in done.out and f"wrote {out}\n" in done.out
    assert cli("verify", folded, out).code == 0


def test_nothing_to_do_is_success(same: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    done = cli("optimize", same, "-o", out).fine()
    assert done.out.startswith("nothing to do: the model is as it was") and "next: --budget" in done.out
    assert out.read_bytes() == same.read_bytes()


def test_version() -> None:
    assert cli("--version").out.startswith("graphopt ")


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; sys.argv = ['graphopt', '--help']; from graphopt.__main__ import main; main(); "
        "sys.exit(any(m in sys.modules for m in ('onnx', 'onnxruntime', 'onnx_ir', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


AS_A_COMMAND = """
import atexit, sys
import graphopt.__main__ as command
atexit.register(print, "tidied up")
main = command.main
def then_show():
    code = main()
    print("sympy.core" in sys.modules)
    return code
command.main = then_show
command.run()
"""


def test_a_command_leaves_out_what_takes_long(folded: Path, tmp_path: Path) -> None:
    """SymPy is not loaded, all output arrives, and Python does not free what was made one by one."""
    call = [sys.executable, "-c", AS_A_COMMAND, "optimize", str(folded), "-o", str(tmp_path / "out.onnx")]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "False"
    assert "verified" in done.stdout


def test_deferred_modules_load_when_they_are_used() -> None:
    code = (
        "import sys; from graphopt.jobs.process import DEFERRED, defer; defer(*DEFERRED); "
        "import onnx_ir as ir; "
        "late = 'sympy.core' not in sys.modules; print(late, (ir.SymbolicDim('n') + 1).evaluate({'n': 2}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True 3\n", "")


@pytest.mark.parametrize("name", list(registry.registry()))
def test_explain_prints_the_headings(name: str) -> None:
    done = cli("explain", name).fine()
    for heading in ("What", "Maths", "When it applies", "Exactness", "Cost"):
        assert f"\n{heading}" in done.out


# --- exit code 1 --------------------------------------------------------------------------------------------


def test_verify_of_models_that_differ(folded: Path, tmp_path: Path) -> None:
    other = conv_bn()
    other.graph.initializer[0].raw_data = weight(8, 8, 3, 3, seed=9).tobytes()
    path = saved(other, tmp_path / "other.onnx")
    done = cli("verify", folded, path)
    assert done.code == 1 and "differ" in done.out
    done = cli("verify", folded, path, "--json")
    assert done.code == 1 and json.loads(done.out)["passed"] is False


def test_verify_of_models_with_another_interface(folded: Path, scores: Path) -> None:
    done = cli("verify", folded, scores)
    assert done.code == 1 and "the inputs differ" in done.out


def test_verify_of_a_quality_that_is_not_kept(scores: Path, inputs: Path, tmp_path: Path) -> None:
    worse = tmp_path / "worse.onnx"
    budget = ("--budget", "macs=0.5", "--floor", "off", "--calibration", inputs)
    assert cli("optimize", scores, "-o", worse, *budget).code == 0
    for wanted, code in (("sqnr=1", 0), ("sqnr=90", 1), ("agreement=0.01", 0)):
        done = cli("verify", scores, worse, "--calibration", inputs, "--budget", wanted)
        assert done.code == code, (wanted, done)
        assert "nan" not in done.out


def test_verify_of_a_quality_that_the_inputs_are_too_few_to_know(
    scores: Path, inputs: Path, tmp_path: Path
) -> None:
    near = tmp_path / "near.onnx"
    budget = ("--budget", "macs=0.9", "--floor", "off", "--calibration", inputs)
    assert cli("optimize", scores, "-o", near, *budget).code == 0
    asked = ("verify", scores, near, "--calibration", inputs, "--budget", "agreement=0.98")
    few = cli(*asked)
    assert few.code == 1 and "agreement 1.0000 (" in few.out
    assert few.out.endswith("the quality is not known to be kept\n")
    assert json.loads(cli(*asked, "--json").out)["undecided"] is True
    assert cli(*asked, "--confidence", "none").out.endswith("the quality is kept\n")
    lost = cli(*asked, "--budget", "sqnr=90")
    assert lost.code == 1 and lost.out.endswith("the quality is not kept\n")


# --- exit code 2 --------------------------------------------------------------------------------------------

OPTIMIZE = ("optimize", "MODEL", "-o", "OUT")
USAGE = {
    "unknown option": ([*OPTIMIZE, "--fast"], "--fast"),
    "unknown command": (["shrink", "MODEL"], "shrink"),
    "no model": (["optimize", "-o", "OUT"], "MODEL"),
    "one model for verify": (["verify", "MODEL"], "CANDIDATE"),
    "no OUT": (["optimize", "MODEL"], "-o OUT"),
    "unknown rewrite": ([*OPTIMIZE, "--only", "fold_afine"], "did you mean fold_affine"),
    "unknown rewrite to skip": ([*OPTIMIZE, "--skip", "colapse"], "did you mean collapse"),
    "unknown rewrite far off": ([*OPTIMIZE, "--only", "zzz"], "the nearest of"),
    "unknown rewrite to explain": (["explain", "botleneck"], "did you mean bottleneck"),
    "budget key": ([*OPTIMIZE, "--budget", "speed=0.5"], "macs, params, bytes"),
    "budget without value": ([*OPTIMIZE, "--budget", "macs"], "NAME=VALUE"),
    "budget that is text": ([*OPTIMIZE, "--budget", "macs=half"], "'half'"),
    "budget 0": ([*OPTIMIZE, "--budget", "macs=0"], "(0, 1]"),
    "budget below 0": ([*OPTIMIZE, "--budget", "params=-0.5"], "(0, 1]"),
    "budget above 1": ([*OPTIMIZE, "--budget", "bytes=1.5"], "(0, 1]"),
    "budget as percentage": ([*OPTIMIZE, "--budget", "macs=50%"], "mean macs=0.5?"),
    "budget in percent": ([*OPTIMIZE, "--budget", "macs=50"], "mean macs=0.5?"),
    "budget twice": (
        [*OPTIMIZE, "--budget", "macs=0.5", "--budget", "macs=0.6"],
        "--budget macs=0.6: macs=0.5 is given already",
    ),
    "shape twice": (["scan", "MODEL", "--shape", "x=1x8x8x8", "--shape", "x=2x8x8x8"], "given already"),
    "set without rewrite": ([*OPTIMIZE, "--set", "rank_in=4"], "REWRITE.OPTION=VALUE"),
    "help of the command": (["optimize", "MODEL", "--fast"], "(see graphopt optimize --help)"),
    "a choice": ([*OPTIMIZE, "--aim", "tim"], "'--aim': 'tim' is not one of"),
    "budget nan": ([*OPTIMIZE, "--budget", "macs=nan"], "(0, 1]"),
    "latency budget": ([*OPTIMIZE, "--budget", "latency=1.5"], "latency"),
    "agreement budget": ([*OPTIMIZE, "--budget", "agreement=0.9"], "agreement"),
    "sqnr budget": ([*OPTIMIZE, "--budget", "sqnr=20"], "sqnr"),
    "sqnr infinite": (["verify", "MODEL", "MODEL", "--budget", "sqnr=inf"], "dB"),
    "gate": ([*OPTIMIZE, "--gate", "memory"], "--gate"),
    "aim": ([*OPTIMIZE, "--aim", "size"], "--aim"),
    "external data": ([*OPTIMIZE, "--external-data", "maybe"], "--external-data"),
    "seed": ([*OPTIMIZE, "--seed", "-1"], "--seed"),
    "set of no option": ([*OPTIMIZE, "--set", "bottleneck.rank=4"], "rank_in"),
    "set of no rewrite": ([*OPTIMIZE, "--set", "squeeze.rank_in=4"], "squeeze"),
    "set to text": ([*OPTIMIZE, "--set", "bottleneck.rank_in=few"], "rank_in"),
    "set to 0": ([*OPTIMIZE, "--set", "bottleneck.rank_in=0"], "rank_in"),
    "set without value": ([*OPTIMIZE, "--set", "bottleneck.rank_in"], "NAME=VALUE"),
    "bottleneck alone": ([*OPTIMIZE, "--only", "bottleneck"], "--budget macs=0.7"),
    "unknown output": ([*OPTIMIZE, "--output", "z"], "outputs are scores"),
    "unknown output in verify": (["verify", "MODEL", "MODEL", "--output", "z"], "outputs are scores"),
    "cost budget in verify": (["verify", "MODEL", "MODEL", "--budget", "macs=0.5"], "agreement and sqnr"),
    "quality without inputs": (["verify", "MODEL", "MODEL", "--budget", "agreement=0.9"], "--calibration"),
    "shape without name": (["scan", "MODEL", "--shape", "1x8x8x8"], "NAME=VALUE"),
    "shape with letters": (["scan", "MODEL", "--shape", "x=1xax8x8"], "expected sizes"),
    "shape with 0": (["scan", "MODEL", "--shape", "x=0x8x8x8"], "at least 1"),
    "shape that contradicts": (["scan", "MODEL", "--shape", "x=1x8x9x8"], "dimension 2 is 8"),
    "shape of too few": ([*OPTIMIZE, "--shape", "x=1x8x8"], "4 dimensions"),
    "shape of no input": ([*OPTIMIZE, "--shape", "image=1x8x8x8"], "'x'"),
    "samples of nothing": ([*OPTIMIZE, "--sample-axis", "0"], "give --calibration"),
    "shape of no input in verify": (["verify", "MODEL", "MODEL", "--shape", "image=1x8x8x8"], "'x'"),
    "shape of no input in bench": (["bench", "MODEL", "MODEL", "--shape", "image=1x8x8x8"], "'x'"),
    "no threads": (["bench", "MODEL", "MODEL", "--threads", "0"], "--threads"),
    "no repeats": (["bench", "MODEL", "MODEL", "--repeat", "0"], "--repeat"),
    "unknown provider": (["bench", "MODEL", "MODEL", "--provider", "Abacus"], "CPUExecutionProvider"),
    "report in no folder": ([*OPTIMIZE, "--report", "absent/r.json"], "absent"),
    "report over the model": ([*OPTIMIZE, "--report", "MODEL"], "is the input"),
    "missing model": (["scan", "absent.onnx"], "absent.onnx"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors(case: str, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given, naming = USAGE[case]
    out = tmp_path / "out.onnx"
    arguments = [{"MODEL": scores, "OUT": out}.get(a, a) for a in given]
    out.write_bytes(b"older")
    refused(*arguments, naming=naming)
    assert out.read_bytes() == b"older"
    out.unlink()
    refused(*arguments, naming=naming)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.onnx"]


def test_no_arguments_show_the_help() -> None:
    done = cli()
    assert done.code == 2 and "optimize" in done.err


def test_models_with_another_interface_are_not_timed(folded: Path, scores: Path) -> None:
    refused("bench", folded, scores, naming="the inputs differ")


def test_agreement_needs_class_scores(folded: Path, inputs: Path) -> None:
    budget = ("--calibration", inputs, "--budget", "agreement=0.9")
    refused("verify", folded, folded, *budget, naming="no output holds class scores")


def test_agreement_on_the_output_that_counts(tmp_path: Path, inputs: Path) -> None:
    proto = classifier()
    proto.graph.output.append(info("r2", ["N", 16, 4, 4]))
    path = saved(proto, tmp_path / "two.onnx")
    budget = ("--calibration", inputs, "--budget", "agreement=0.9")
    assert cli("verify", path, path, *budget).code == 0
    refused("verify", path, path, *budget, "--output", "r2", naming="no output holds class scores")


def _npz(**arrays: np.ndarray) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.savez(folder / "inputs.npz", **arrays)
        return folder / "inputs.npz"

    return write


def _npy(array: np.ndarray) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        np.save(folder / "inputs.npy", array, allow_pickle=True)
        return folder / "inputs.npy"

    return write


def _text(folder: Path) -> Path:
    (folder / "inputs.npz").write_text("1, 2, 3")
    return folder / "inputs.npz"


def _folder(**files: dict[str, np.ndarray]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "given").mkdir()
        for name, arrays in files.items():
            np.savez(folder / "given" / f"{name}.npz", **arrays)
        return folder / "given"

    return write


def _truncated(folder: Path) -> Path:
    path = _npz(x=samples(8))(folder)
    path.write_bytes(path.read_bytes()[:2000])
    return path


@pytest.mark.parametrize(
    ("said", "naming"),
    [
        (["x=first"], "expected the number of an axis, from 0 on, or constant"),
        (["x:0"], "expected NAME=AXIS"),
        (["x=5"], "the last one is 4"),
        (["image=0"], "--sample-axis image=0: the model has no input 'image'; its inputs are 'x'"),
        (["0", "1"], "stands alone"),
    ],
)
def test_samples_along_an_axis_that_is_none(
    said: list[str], naming: str, scores: Path, inputs: Path, tmp_path: Path
) -> None:
    given = ["--calibration", inputs, *(part for each in said for part in ("--sample-axis", each))]
    refused("optimize", scores, "-o", tmp_path / "out.onnx", *given, naming=naming)
    refused("verify", scores, scores, *given, naming=naming)


def test_samples_along_the_axis_that_is_said_are_recorded(tmp_path: Path) -> None:
    lines = [node("Transpose", "x", "t", perm=[1, 2, 0]), node("Conv", "t w", "y", pads=[1, 1])]
    proto = model(lines, {"w": weight(16, 8, 3)}, inputs={"x": [None, None, 8]}, outputs={"y": None})
    path, given = saved(proto, tmp_path / "sequences.onnx"), tmp_path / "sequences.npz"
    np.savez(given, x=samples(30, 12, 8))
    for said in ("1", "x=1"):
        arguments = ("--calibration", given, "--sample-axis", said, "--budget", "macs=0.9")
        done = cli("optimize", path, "-o", tmp_path / "out.onnx", *arguments, "--json")
        assert done.code == 0 and json.loads(done.out)["quality"]["samples"] == 3
    assert "sample_axis  x=1" in cli("provenance", tmp_path / "out.onnx").out


BAD_CALIBRATION = {
    "missing file": (lambda folder: folder / "absent.npz", "no such calibration file"),
    "text": (_text, "no readable .npz or .npy file"),
    "truncated": (_truncated, "inputs.npz"),
    "nothing in it": (_npz(), "holds nothing"),
    "extra array": (_npz(x=samples(8), label=np.zeros(8)), "'label'"),
    "wrong names": (_npz(image=samples(8), label=np.zeros(8)), "no array for the model's input 'x'"),
    "wrong shape": (_npy(samples(8, 8, 4, 8)), "shape [8, 8, 4, 8]"),
    "wrong rank": (_npy(samples(8, 8, 8)), "shape [8, 8, 8]"),
    "scalar": (_npy(np.float32(3)), "has shape [], the model takes [N, 8, 8, 8]: give [N, 8, 8, 8] for N"),
    "uint8": (_npy(np.zeros((8, 8, 8, 8), np.uint8)), "uint8"),
    "int64": (_npy(np.zeros((8, 8, 8, 8), np.int64)), "int64"),
    "complex": (_npy(np.zeros((8, 8, 8, 8), np.complex64)), "complex64"),
    "NaN": (_npy(np.full((8, 8, 8, 8), np.nan, np.float32)), "not finite"),
    "infinite": (_npy(np.full((8, 8, 8, 8), np.inf, np.float32)), "not finite"),
    "too large for the type": (_npy(np.full((8, 8, 8, 8), 1e300)), "float32 can't hold"),
    "no samples": (_npy(samples(0)), "no samples"),
    "one sample": (_npy(samples(1)), "too few"),
    "a model": (lambda folder: saved(nothing_to_do(), folder / "m.onnx"), "m.onnx: no readable .npz or .npy"),
    "pickled objects": (
        _npy(np.array([{"a": 1}], dtype=object)),
        "its arrays hold objects, which are not read",
    ),
    "empty folder": (_folder(), "no .npy or .npz file"),
    "folder of different names": (_folder(a={"x": samples(8)}, b={"y": samples(8)}), "b.npz"),
    "folder of different sizes": (
        _folder(a={"x": samples(8)}, b={"x": samples(8, 8, 4, 4)}),
        "b.npz: array for input 'x' has shape [8, 8, 4, 4], the model takes [N, 8, 8, 8]",
    ),
}


@pytest.mark.parametrize("case", BAD_CALIBRATION)
def test_bad_calibration(case: str, scores: Path, tmp_path: Path) -> None:
    make, naming = BAD_CALIBRATION[case]
    given, out = make(tmp_path), tmp_path / "out.onnx"
    out.write_bytes(b"older")
    budget = ("--calibration", given, "--budget", "macs=0.7")
    refused("optimize", scores, "-o", out, *budget, naming=naming)
    assert out.read_bytes() == b"older"


def test_calibration_with_mixed_counts(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "c"), node("Add", "c z", "y")]
    shapes = {"x": ["N", 8, 8, 8], "z": ["N", 8, 1, 1]}
    path = saved(model(nodes, {"w": weight(8, 8, 1, 1)}, inputs=shapes), tmp_path / "two.onnx")
    given = _npz(x=samples(8), z=samples(6, 8, 1, 1))(tmp_path)
    refused("optimize", path, "--dry-run", "--calibration", given, naming="different numbers of samples")
    named = _npz(x=samples(8))(tmp_path)
    refused("optimize", path, "--dry-run", "--calibration", named, naming="'z'")


def test_a_pickle_is_never_loaded(scores: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    given = _npy(np.array([Bomb()], dtype=object))(tmp_path)
    refused("verify", scores, scores, "--calibration", given, naming="its arrays hold objects")
    assert not (tmp_path / "exploded").exists()


# --- where OUT may be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["itself", "symbolic link", "hard link", "relative", "folder link"])
def test_out_may_not_be_the_input(
    how: str, folded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "soft.onnx").symlink_to(folded)
    (tmp_path / "hard.onnx").hardlink_to(folded)
    (tmp_path / "again").symlink_to(tmp_path)
    out = {
        "itself": folded,
        "symbolic link": tmp_path / "soft.onnx",
        "hard link": tmp_path / "hard.onnx",
        "relative": Path("again") / ".." / tmp_path.name / "folded.onnx",
        "folder link": tmp_path / "again" / "folded.onnx",
    }[how]
    before = folded.read_bytes()
    refused("optimize", folded, "-o", out, naming="is the input")
    assert folded.read_bytes() == before


def test_out_may_not_be_a_folder_or_in_none(folded: Path, tmp_path: Path) -> None:
    refused("optimize", folded, "-o", tmp_path, naming="is a folder")
    refused("optimize", folded, "-o", tmp_path / "absent" / "out.onnx", naming="does not exist")
    assert not (tmp_path / "absent").exists()


def test_dry_run_writes_no_model(folded: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    done = cli("optimize", folded, "-o", out, "--dry-run", "--report", report).fine()
    assert "wrote" not in done.out
    assert json.loads(report.read_text())["changed"] is True
    assert cli("optimize", folded, "--dry-run").code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folded.onnx", "report.json"]


def test_external_data(folded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    data = tmp_path / "out.onnx.data"
    assert cli("optimize", folded, "-o", out, "--external-data", "always").code == 0
    assert data.stat().st_size >= 8 * 8 * 9 * 4
    assert cli("verify", folded, out).code == 0
    second = tmp_path / "second.onnx"
    assert cli("optimize", out, "-o", second, "--external-data", "never").code == 0
    assert not (tmp_path / "second.onnx.data").exists()
    assert cli("verify", folded, second).code == 0


# --- exit code 3 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["--report", "-o"])
def test_external_data_is_not_written_over(written: str, tmp_path: Path) -> None:
    path, data = tmp_path / "m.onnx", tmp_path / "weights.bin"
    onnx.save(classifier(), path, save_as_external_data=True, size_threshold=0, location=data.name)
    before = data.read_bytes()
    others = ("--dry-run",) if written == "--report" else ()
    refused("optimize", path, written, data, *others, naming=f"{data}: is the input")
    assert data.read_bytes() == before


def test_a_budget_out_of_reach(scores: Path, inputs: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    out.write_bytes(b"older")
    arguments = (
        "optimize",
        scores,
        "-o",
        out,
        "--budget",
        "macs=0.001",
        "--floor",
        "off",
        "--report",
        report,
    )
    done = cli(*arguments, "--calibration", inputs)
    assert done.code == 3
    done.one_line("0.001 asked for")
    assert out.read_bytes() == b"older"
    document = json.loads(report.read_text())
    assert document["exit_code"] == 3
    assert document["after"]["macs"] < 0.2 * document["before"]["macs"]
    assert document["applied"]
    names = ["inputs.npy", "out.onnx", "report.json", "scores.onnx"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_the_json_of_a_budget_out_of_reach(scores: Path, tmp_path: Path) -> None:
    done = cli("optimize", scores, "-o", tmp_path / "out.onnx", "--budget", "macs=0.001", "--json")
    assert done.code == 3
    assert json.loads(done.out)["exit_code"] == 3
    done.one_line()
    assert not (tmp_path / "out.onnx").exists()


# --- exit codes 70 and 130 ----------------------------------------------------------------------------------


def _raising(error: BaseException) -> Callable[..., None]:
    def raise_it(*_: object, **__: object) -> None:
        raise error

    return raise_it


@pytest.mark.parametrize(
    ("error", "code", "naming"),
    [
        (KeyError("a\nb"), 70, "internal error in test_cli"),
        (RuntimeError(""), 70, "RuntimeError"),
        (MemoryError(), 2, "out of memory"),
        (GraphOptError("rewrite x failed at y"), 70, "rewrite x failed at y"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
@pytest.mark.parametrize("command", ["scan", "optimize"])
def test_what_nobody_expected(
    command: str,
    error: BaseException,
    code: int,
    naming: str,
    folded: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(graphopt.api, command, _raising(error))
    out = () if command == "scan" else ("-o", tmp_path / "out.onnx")
    cli(command, folded, *out).refused(naming, code=code)
    assert not (tmp_path / "out.onnx").exists()


def test_a_traceback_for_those_who_ask(folded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHOPT_TRACEBACK", "1")
    monkeypatch.setattr(graphopt.api, "scan", _raising(KeyError("a")))
    with pytest.raises(KeyError):
        cli("scan", folded)


SLOW = """
import sys, time
import graphopt.__main__
from graphopt.model import wire_format
write = wire_format.write
def slow(*arguments):
    write(*arguments)
    print("writing", flush=True)
    time.sleep(60)
wire_format.write = slow
sys.exit(graphopt.__main__.main())
"""


@pytest.mark.parametrize("older", [None, b"older"])
def test_ctrl_c_while_the_model_is_written(older: bytes | None, folded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    if older is not None:
        out.write_bytes(older)
    before = sorted(p.name for p in tmp_path.iterdir())
    call = [sys.executable, "-c", SLOW, "optimize", str(folded), "-o", str(out)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "writing\n"
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    Ran(running.returncode, "", err).refused("interrupted", code=130)
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (out.read_bytes() if out.exists() else None) == older


def test_ctrl_c_at_any_moment(scores: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    before = sorted(p.name for p in tmp_path.iterdir())
    budget = ("--budget", "macs=0.5", "--calibration", str(inputs))
    call = [sys.executable, "-m", "graphopt", "optimize", str(scores), "-o", str(out), *budget]
    for wait in (0.35, 0.6):
        with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
            time.sleep(wait)
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=30)
        if running.returncode == 0:  # it was done before
            out.unlink()
        elif running.returncode > 0:  # below: Python itself was not up yet
            assert running.returncode == 130, err
            assert "Traceback" not in err
        assert sorted(p.name for p in tmp_path.iterdir()) == before


# --- streams ------------------------------------------------------------------------------------------------


def test_json_is_all_of_standard_output(folded: Path, scores: Path, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    budget = ("--budget", "macs=0.6", "--calibration", inputs)
    for arguments in (
        ("scan", folded),
        ("optimize", folded, "-o", out),
        ("optimize", scores, "--dry-run", *budget),
        ("verify", folded, out),
        ("bench", folded, out, "--repeat", 2),
        ("rewrites",),
    ):
        done = cli(*arguments, "--json").fine()
        json.loads(done.out)
        assert done.out.endswith("\n")


def _long_names() -> onnx.ModelProto:
    proto = classifier(prefix="model/backbone/stage_1/inverted_residual_block_" + "0123456789" * 3 + "/")
    long = "the/name/of/an/output/that/is/longer/than/any/terminal/is/wide/" + "x" * 40
    for step in proto.graph.node:
        step.output[:] = [long if name == "scores" else name for name in step.output]
    proto.graph.output[0].name = long
    return proto


def test_no_line_is_wider_than_the_terminal(tmp_path: Path, inputs: Path) -> None:
    path, out = saved(_long_names(), tmp_path / "long.onnx"), tmp_path / "out.onnx"
    budget = ("--budget", "macs=0.6", "--calibration", inputs)
    texts = [
        on_80_columns("scan", path),
        on_80_columns("scan", path, "--measure"),
        on_80_columns("optimize", path, "--dry-run", "--keep", "*"),
        on_80_columns("optimize", path, "--dry-run", "--budget", "macs=0.01"),
        on_80_columns("optimize", path, "-o", out, *budget),
        on_80_columns("verify", path, out),
        on_80_columns("verify", path, out, "--calibration", inputs, "--budget", "sqnr=3"),
        on_80_columns("bench", path, out, "--repeat", 2),
        on_80_columns("rewrites"),
    ]
    for shown in texts:
        assert shown
        # A path alone may be longer: who copies it wants it in one piece.
        lines = [line for line in shown.splitlines() if str(tmp_path) not in line]
        assert max(map(len, lines)) <= 80, shown


@pytest.mark.parametrize("variable", ["NO_COLOR", "FORCE_COLOR"])
def test_colours(variable: str, folded: Path, scores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(variable, "1")
    done = cli("verify", folded, scores)
    assert "differ" in done.out
    assert ("\x1b[" in done.out) == (variable == "FORCE_COLOR")


# --- options ------------------------------------------------------------------------------------------------


def _two_folds() -> onnx.ModelProto:
    proto = conv_bn()
    proto.graph.node[2].output[0] = "r"
    proto.graph.node.append(node("Conv", "r w2", "d", "second", pads=[1, 1, 1, 1]))
    proto.graph.node.append(node("Mul", "d two", "y", "double"))
    for name, array in (("w2", weight(8, 8, 3, 3, seed=5)), ("two", np.array([2], np.float32))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def _applied(*arguments: object) -> tuple[list[str], set[tuple[str, str]]]:
    """Anchors of what was applied, and anchor and reason of what was not."""
    done = cli("optimize", *arguments, "--dry-run", "--json").fine()
    document = json.loads(done.out)
    reasons = {(item["nodes"][0], item["reason"]) for item in document["rejected"] + document["declined"]}
    return [item["nodes"][0] for item in document["applied"]], reasons


def test_at_and_keep(tmp_path: Path) -> None:
    path = saved(_two_folds(), tmp_path / "m.onnx")
    assert sorted(_applied(path)[0]) == ["conv", "second"]
    applied, reasons = _applied(path, "--at", "sec*")
    assert applied == ["second"] and ("conv", '"at" names other nodes') in reasons
    applied, reasons = _applied(path, "--keep", "bn")
    assert applied == ["second"] and ("conv", '"keep" names bn') in reasons
    assert _applied(path, "--at", "conv", "--at", "double")[0] == ["conv", "second"]
    assert _applied(path, "--at", "conv", "--keep", "*")[0] == []
    cli("optimize", path, "--dry-run", "--at", "conv", "--keep", "conv").refused("--keep conv leaves it out")


def test_a_pattern_that_matches_nothing_is_told(tmp_path: Path) -> None:
    path = saved(_two_folds(), tmp_path / "m.onnx")
    notes = json.loads(cli("optimize", path, "--dry-run", "--json", "--keep", "sec*", "--keep", "typo").out)[
        "notes"
    ]
    assert notes == ['"keep" names typo, which matches no node\'s name']
    out = cli("optimize", path, "--dry-run", "--at", "typo", "--at", "sec*").out
    assert 'note: "at" names typo, which matches no node\'s name' in out


def test_patterns_of_which_none_matches_are_refused(tmp_path: Path) -> None:
    path = saved(_two_folds(), tmp_path / "m.onnx")
    ran = cli("optimize", path, "--dry-run", "--at", "secnod")
    ran.refused("--at secnod: no node has such a name; did you mean second?")


def test_only_and_skip(tmp_path: Path) -> None:
    path = saved(_two_folds(), tmp_path / "m.onnx")
    assert _applied(path, "--skip", "fold_affine")[0] == []
    assert _applied(path, "--only", "collapse,fold_pad")[0] == []
    assert len(_applied(path, "--only", "collapse,fold_affine")[0]) == 2
    ran = cli("optimize", path, "--dry-run", "--only", "fold_affine", "--skip", "fold_affine")
    ran.refused("--only fold_affine", "--skip fold_affine leaves it out")


def test_fixed_ranks_need_no_budget(scores: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ranks = ("--set", "bottleneck.rank_in=4", "--set", "bottleneck.rank_out=6")
    done = cli("optimize", scores, "-o", out, "--only", "bottleneck", *ranks, "--json").fine()
    choices = [item["choice"] for item in json.loads(done.out)["applied"]]
    assert choices == [{"rank_in": 4, "rank_out": 6}] * 2
    assert json.loads(done.out)["unmeasured"] is True


def test_shape_gives_open_sizes(tmp_path: Path) -> None:
    path = saved(nothing_to_do(inputs={"x": ["N", 8, "H", "W"]}), tmp_path / "m.onnx")
    unknown = json.loads(cli("scan", path, "--json").out)
    assert unknown["totals"]["macs"] is None
    known = json.loads(cli("scan", path, "--json", "--shape", "x=1x8x20x10").out)
    assert known["totals"]["macs"] == 8 * 20 * 10 * 8 * 9
    assert known["unknown_dims"] == []


def test_another_seed_gives_another_split(scores: Path, inputs: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        budget = ("--budget", "macs=0.5", "--floor", "off", "--calibration", inputs, "--seed", seed)
        assert cli("optimize", scores, "-o", tmp_path / f"{seed}.onnx", *budget).code == 0
    assert (tmp_path / "0.onnx").read_bytes() != (tmp_path / "1.onnx").read_bytes()

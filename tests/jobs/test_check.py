"""``graphopt check``: which models exact rewrites would make cheaper, and ``--fix``, which rewrites them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphopt
from graphopt import api
from graphopt.errors import GraphOptError
from graphopt.report.results import Result
from models import classic
from tests.builders import classifier, conv_bn, info, model, node, nothing_to_do, run, samples, saved, weight
from tests.command import COMMAND, Ran, cli
from tests.places import ROOT


def outside(path: Path, **options: object) -> Path:
    """A model with something to do whose weights are in another file."""
    proto = classifier(1, 32)
    onnx.save(proto, path, save_as_external_data=True, size_threshold=0, **options)  # type: ignore[arg-type]
    return path


def test_a_clean_model_passes(same: Path) -> None:
    done = cli("check", same).fine()
    assert done.out.splitlines() == [f"{same}: nothing to do", "1 model: nothing to do"]


def test_weights_that_a_caller_may_override_are_noted(tmp_path: Path) -> None:
    path = saved(conv_bn(overridable=["w", "bn/scale"]), tmp_path / "m.onnx")
    done = cli("check", path).fine()
    assert done.out.splitlines()[:2] == [
        f"{path}: nothing done",
        'note: 1 site has weights that a caller may override: "freeze_initializers" makes them constants',
    ]


def test_a_model_that_onnxruntime_refuses_for_shapes_that_it_declares(tmp_path: Path) -> None:
    nodes = [node("Shape", "x", "s"), onnx.helper.make_node("Resize", ["x", "", "", "s"], ["y"])]
    proto = model(nodes, inputs={"x": ["n", 8, "h", "w"]})
    proto.graph.value_info.append(info("s", [5], np.int64))
    path = saved(proto, tmp_path / "m.onnx")
    done = cli("check", path)
    assert (done.code, done.err) == (3, "")
    first, note, last = done.out.splitlines()
    assert first == f"{path}: onnxruntime refuses it"
    assert "for 1 inner value (s) does not follow from its inputs" in note
    assert last == "1 model: 1 refused by onnxruntime for shapes (--fix leaves them out)"
    done = cli("check", "--fix", path).fine()
    assert done.out.splitlines()[0] == f"{path}: rewritten, onnxruntime takes it by now"
    assert done.out.splitlines()[-1] == "1 model: 1 rewritten"
    assert cli("check", path).fine().out.splitlines()[-1] == "1 model: nothing to do"


def test_a_line_a_model_says_what_and_how_many_macs(tmp_path: Path, same: Path, folded: Path) -> None:
    big = saved(classic.build(), tmp_path / "classic.onnx")
    before = {path: path.read_bytes() for path in (same, folded, big)}
    done = cli("check", same, folded, big)
    assert (done.code, done.err) == (3, "")
    assert done.out.replace("\u00a0", " ").splitlines() == [
        f"{same}: nothing to do",
        f"{folded}: 36.86 k MACs as before, 3 → 2 operators: 1 fold_affine",
        f"{big}: 120.4 M → 12.44 M MACs, 1 → 2 operators: 1 lossless_bottleneck",
        "3 models: 2 could be made cheaper exactly (--fix does it)",
    ]
    assert {path: path.read_bytes() for path in before} == before
    assert len(list(tmp_path.iterdir())) == 3


def test_fix_puts_what_optimize_writes_in_its_place(tmp_path: Path, same: Path, folded: Path) -> None:
    original, untouched = conv_bn(), same.read_bytes()
    assert cli("optimize", folded, "-o", tmp_path / "wanted.onnx").code == 0
    folded.chmod(0o640)
    done = cli("check", "--fix", same, folded).fine()
    assert f"{folded}: rewritten, 36.86 k MACs as before, 3 → 2 operators: 1 fold_affine" in done.out
    assert done.out.splitlines()[-1] == "2 models: 1 rewritten"
    assert folded.read_bytes() == (tmp_path / "wanted.onnx").read_bytes()
    assert same.read_bytes() == untouched
    assert folded.stat().st_mode & 0o777 == 0o640
    assert graphopt.verify(original, folded)
    assert {path.name for path in tmp_path.iterdir()} == {"same.onnx", "folded.onnx", "wanted.onnx"}
    again = cli("check", same, folded).fine()
    assert again.out.splitlines()[-1] == "2 models: nothing to do"


@pytest.mark.parametrize("name", ["inception-digits.onnx", "resnet-digits.onnx"])
def test_a_fixed_model_is_clean(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((ROOT / "models" / name).read_bytes())
    assert cli("check", path).code == 3
    assert cli("check", "--fix", path).code == 0
    assert cli("check", path).code == 0


def test_the_choice_of_rewrites(folded: Path) -> None:
    assert cli("check", folded, "--skip", "fold_affine").code == 0
    assert cli("check", folded, "--keep", "bn").code == 0
    assert cli("check", folded, "--only", "collapse").code == 0
    assert cli("check", folded, "--only", "fold_affine").code == 3


def test_a_wrong_name_is_told_once(folded: Path, same: Path) -> None:
    cli("check", folded, same, "--only", "fold_afine").refused("did you mean fold_affine?")
    said = "graphopt: --only bottleneck: it is approximate, and check is about exact ones\n"
    cli("check", folded, same, "--only", "fold_affine,bottleneck").refused(said)


def test_a_model_that_fails_does_not_stop_the_others(tmp_path: Path, folded: Path, same: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    done = cli("check", tmp_path / "none.onnx", folded, broken, same)
    assert done.code == 2
    none, second = done.err.splitlines()
    assert none == f"graphopt: {tmp_path / 'none.onnx'}: no such file"
    assert second.startswith(f"graphopt: {broken}: ")
    assert done.out.splitlines()[-1] == "4 models: 1 could be made cheaper exactly (--fix does it), 2 failed"
    assert f"{same}: nothing to do" in done.out


@pytest.mark.parametrize("bug", [KeyError("a bug"), GraphOptError("rewrite x failed at y")])
def test_a_bug_does_not_stop_the_others(
    bug: Exception, tmp_path: Path, folded: Path, same: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimize, poor = api.optimize, saved(conv_bn(), tmp_path / "poor.onnx")

    def failing(path: Path, **options: Any) -> Result:
        if path == poor:
            raise bug
        return optimize(path, **options)

    monkeypatch.setattr(api, "optimize", failing)
    done = cli("check", poor, "--fix", folded, same)
    done.one_line(f"graphopt: {poor}: ")
    assert done.code == 70
    assert done.out.splitlines()[-1] == "3 models: 1 rewritten, 1 failed"


def test_no_model_is_bad_usage() -> None:
    done = cli("check")
    assert (done.code, done.out) == (2, "")


def test_json(folded: Path, same: Path, tmp_path: Path) -> None:
    done = cli("check", "--json", folded, same, tmp_path / "none.onnx")
    found = json.loads(done.out)
    assert (found["schema_version"], found["exit_code"], done.code) == (1, 2, 2)
    first, second, third = found["models"]
    assert (first["path"], first["exit_code"], first["fixed"]) == (str(folded), 3, False)
    assert first["rewrites"] == {"fold_affine": 1}
    assert (first["before"]["nodes"], first["after"]["nodes"]) == (3, 2)
    assert (second["exit_code"], second["rewrites"], second["error"]) == (0, {}, None)
    assert second["before"] == second["after"]
    assert (third["before"], third["after"]) == (None, None)
    assert third["error"].endswith("none.onnx: no such file")
    fixed = json.loads(cli("check", "--json", "--fix", folded).out)["models"][0]
    assert (fixed["exit_code"], fixed["fixed"]) == (0, True)


# --- files --------------------------------------------------------------------------------------------------


def test_fix_of_external_data(tmp_path: Path) -> None:
    path = outside(tmp_path / "model.onnx", location="model.onnx.data")
    feeds = {"x": samples(1)}
    wanted = run(path, feeds)[0]
    cli("check", "--fix", path).fine()
    assert {each.name for each in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert "BatchNormalization" not in [n.op_type for n in onnx.load(path).graph.node]
    np.testing.assert_allclose(run(path, feeds)[0], wanted, rtol=1e-4, atol=1e-5)
    assert cli("check", path).code == 0


def test_fix_leaves_data_alone_that_other_models_may_use(tmp_path: Path) -> None:
    path = outside(tmp_path / "model.onnx", location="weights.bin")
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    assert cli("check", path).code == 3
    done = cli("check", "--fix", path)
    done.one_line("weights.bin", f"graphopt optimize {path} -o OUT")
    assert done.code == 2
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


@pytest.fixture
def emptied(tmp_path: Path) -> Path:
    """A model with external data, none of which is left when its one large weight is folded."""
    nodes = [node("Mul", "x ones", "scaled"), node("Relu", "scaled", "y")]
    proto = model(nodes, {"ones": np.ones((1, 8, 8, 8), np.float32)})
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.onnx.data")
    return tmp_path / "m.onnx"


def test_fix_removes_data_that_is_not_read_any_more(emptied: Path, same: Path) -> None:
    emptied.with_name("README").write_text("The weights are in m.onnx.data.")
    feeds = {"x": samples(1)}
    wanted = run(emptied, feeds)[0]
    done = cli("check", "--fix", emptied).fine()
    assert "note" not in done.out
    assert {each.name for each in emptied.parent.iterdir()} == {"m.onnx", "same.onnx", "README"}
    np.testing.assert_array_equal(run(emptied, feeds)[0], wanted)


@pytest.mark.parametrize("form", ["text", "json"])
def test_fix_leaves_data_that_another_model_reads(emptied: Path, form: str) -> None:
    other = emptied.with_name("other.onnx")
    other.write_bytes(emptied.read_bytes())
    feeds = {"x": samples(1)}
    wanted = run(other, feeds)[0]
    done = cli("check", "--fix", emptied, *["--json"] * (form == "json"))
    note = f"{emptied}.data is left, as other.onnx reads it too"
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)["models"][0]["note"] if form == "json" else done.out.splitlines()[1]
    assert told == (note if form == "json" else f"note: {note}")
    np.testing.assert_array_equal(run(other, feeds)[0], wanted)
    assert {each.name for each in emptied.parent.iterdir()} == {"m.onnx", "other.onnx", "m.onnx.data"}


def test_fix_does_not_replace_data_that_another_model_reads(tmp_path: Path) -> None:
    path = outside(tmp_path / "m.onnx", location="m.onnx.data")
    path.with_name("other.onnx").write_bytes(path.read_bytes())
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    done = cli("check", "--fix", path)
    done.one_line("its weights are in m.onnx.data, which other.onnx reads too; write a new file with")
    assert done.code == 2
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before


def test_fix_keeps_data_when_the_model_can_not_be_put_in_place(
    emptied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {each.name: each.read_bytes() for each in emptied.parent.iterdir()}
    replace = os.replace

    def refuse(origin: Path, target: Path) -> None:
        if Path(target).name == "spare":
            raise PermissionError(13, "Permission denied")
        replace(origin, target)

    monkeypatch.setattr(os, "replace", refuse)
    done = cli("check", "--fix", emptied)
    assert done.code == 2 and "Permission denied" in done.err
    assert {each.name: each.read_bytes() for each in emptied.parent.iterdir()} == before


def test_fix_refuses_links(tmp_path: Path, folded: Path) -> None:
    link, before = tmp_path / "link.onnx", folded.read_bytes()
    link.symlink_to(folded)
    assert cli("check", link).code == 3
    done = cli("check", "--fix", link)
    assert done.code == 2 and "symbolic link" in done.err
    assert link.is_symlink() and folded.read_bytes() == before


def test_fix_of_a_file_that_changes_meanwhile(
    tmp_path: Path, folded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another program wrote in the meantime is not lost."""
    save, other = graphopt.Result.save, nothing_to_do().SerializeToString()

    def late(result: graphopt.Result, path: Path, **options: object) -> None:
        save(result, path, **options)  # type: ignore[arg-type]
        os.replace(saved(nothing_to_do(), tmp_path / "new"), folded)

    monkeypatch.setattr(graphopt.Result, "save", late)
    done = cli("check", "--fix", folded)
    assert done.code == 2 and "changed while it was in use" in done.err
    assert folded.read_bytes() == other
    assert list(tmp_path.iterdir()) == [folded]


def test_fix_in_a_folder_that_is_read_only(folded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so that the refusal is a stand-in's."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("graphopt.jobs.check.tempfile.TemporaryDirectory", refuse)
    before = folded.read_bytes()
    done = cli("check", "--fix", folded)
    assert (done.code, done.err) == (2, f"graphopt: {folded}: can't be written: Permission denied\n")
    assert folded.read_bytes() == before


def test_what_was_rewritten_before_an_interrupt_is_told(tmp_path: Path) -> None:
    first = saved(conv_bn(), tmp_path / "first.onnx")
    wide, size = node("Conv", "x w", "y", "conv", pads=[2, 2, 2, 2]), [1, 256, 160, 160]
    slow = model([wide], {"w": weight(256, 256, 5, 5)}, inputs={"x": size}, outputs={"y": size})
    others = [saved(slow, tmp_path / f"slow{number}.onnx") for number in range(20)]
    command = [*COMMAND, "check", "--fix", str(first), *map(str, others)]
    before = first.read_bytes()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        while first.read_bytes() == before:
            assert child.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    Ran(child.returncode, "", err).refused(
        "graphopt: interrupted at ", "1 of the models before it were rewritten", code=130
    )

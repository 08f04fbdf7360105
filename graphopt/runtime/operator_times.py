"""Latency of candidates in onnxruntime at one thread, each timed alone and remembered on disk.

The key is all that the time depends on: the operators with their attributes, the shapes of weights and
inputs, the provider, onnxruntime's version and the processor. So the same layer is timed once, in this
model or another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphopt.analysis.snapshot import Analysis
from graphopt.errors import InputError
from graphopt.files import is_number, require_file
from graphopt.runtime import session, subgraph
from graphopt.runtime.latency import in_turn
from graphopt.runtime.session import PROVIDER, THREADS, Feeds, Structure
from graphopt.runtime.subgraph import SubgraphPair
from graphopt.types import Candidate, Replacement

FORM_SECONDS = 0.03
"""How long a form is run, at least; measured by benchmarks.thresholds: of eight times on a loaded machine the
longest was 1.36, 1.32 and 1.17 times the shortest with 0.003, 0.03 and 0.3 seconds."""
RUNS = 5
"""How often, at least; measured by benchmarks.thresholds: 1.33, 1.32 and 1.12 with 1, 5 and 50 runs."""
BLOCKS = (16, 8, 4)
"""Numbers of channels that kernels may compute at once: derived, float32 in registers of 512, 256 and 128
bits."""
SAMPLE = (1, 64, 28, 28)
"""Input of the convolution that tells which it is: derived, 64 channels are four of the widest blocks, and a
run takes about a millisecond at `time_model.DENSE_MACS_PER_SECOND`."""
BLOCK_OF, BLOCK_RUNS, BLOCK_NOISE = 32, 40, 0.05
"""Its channels, how often it is run, and a difference that is none. Derived: half a block of 4 is
2 / 32 = 6 % of the channels, so the noise is less than what the narrowest block tells."""


def cache_path() -> Path | None:
    """Where latencies are remembered: ``graphopt/latency.json`` in the user's cache folder, if any."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "graphopt" / "latency.json"
    except RuntimeError:  # a user without a home, as in a container
        return None


class Stopwatch:
    """Times the two forms of a changed region, and remembers them.

    Args:
        path: the file; None remembers nothing beyond this object.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, float] = {} if path is None else _remembered(path)
        self._new = False

    def seconds(self, analysis: Analysis, candidate: Candidate, change: Replacement) -> tuple[float, float]:
        """Seconds that the operators of a site take, and those in their place, at one thread.

        Args:
            analysis: a snapshot of the model.
            candidate: the site.
            change: what takes its place.

        Returns:
            Seconds before and after; of what was timed before, what was measured then.
        """
        region = subgraph.region(analysis, candidate, change, "r/")
        before, after = (self._time(analysis, form) for form in region.forms())
        return before, after

    def whole(self, model: ir.Model, feed: Feeds) -> float:
        """Seconds that a model takes at one thread, timed as its operators are; not remembered."""
        return _time(session.structure(model), feed)

    def block(self) -> int:
        """Output channels that a convolution computes at once, as measured; 1 where that can't be seen.

        A convolution whose last block of channels is half full takes as long as one whose blocks are full.
        """
        key = hashlib.sha256(json.dumps(["block", *_machine()]).encode()).hexdigest()
        if self._known.get(key) not in (*BLOCKS, 1):
            counts = [BLOCK_OF, *(BLOCK_OF - block // 2 for block in BLOCKS)]
            full, *partly = _shortest([_convolution(count) for count in counts])
            same = [taken >= (1 - BLOCK_NOISE) * full for taken in partly]
            self._known[key] = float(BLOCKS[same.index(True)]) if any(same) else 1.0
            self._new = True
        return int(self._known[key])

    def save(self) -> None:
        """Writes what was timed; a cache that can't be written is no error."""
        if not self._new or self._path is None:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            beside.write_text(json.dumps(self._known, sort_keys=True), encoding="utf-8")
            beside.replace(self._path)

    def _time(self, analysis: Analysis, form: SubgraphPair) -> float:
        key = _key(form)
        if key not in self._known:
            parts = subgraph.assemble(analysis.model, [form])
            rng = np.random.default_rng(0)
            feed = form.feeds(rng)
            self._known[key] = _time(parts, feed)
            self._new = True
        return self._known[key]


def _remembered(path: Path) -> dict[str, float]:
    """The latencies in a file that somebody else may have written: what is no time is timed again."""
    try:
        require_file(path)
        read = json.loads(path.read_text(encoding="utf-8"))
    except (InputError, OSError, ValueError, RecursionError):
        return {}
    entries = read.items() if isinstance(read, dict) else ()
    return {key: float(value) for key, value in entries if is_number(value) and value > 0}


def _time(parts: Structure, feed: Feeds) -> float:
    """The shortest run: others on the machine make runs longer, never shorter."""
    running = session.session(parts, optimised=True, threads=THREADS, provider=PROVIDER)
    session.run(running, feed)
    return float(in_turn([running], feed, _turns()).min())


def _turns() -> Iterator[int]:
    """The runs of a form: `RUNS`, and more until they took `FORM_SECONDS`."""
    begun, count = time.perf_counter(), 0
    while count < RUNS or time.perf_counter() - begun < FORM_SECONDS:
        yield count
        count += 1


def _shortest(models: Sequence[Structure]) -> list[float]:
    """Seconds of the shortest run of each model on the same input, run in turn."""
    sessions = [session.session(m, optimised=True, threads=THREADS, provider=PROVIDER) for m in models]
    feed = {"x": session.random_array(np.random.default_rng(0), SAMPLE, None)}
    shortest: list[float] = in_turn(sessions, feed, range(BLOCK_RUNS))[1:].min(axis=0).tolist()
    return shortest


def _convolution(channels: int) -> Structure:
    """A 3x3 convolution to so many channels."""
    from onnx import helper

    rng = np.random.default_rng(0)
    weight = rng.normal(0.0, 0.05, (channels, SAMPLE[1], 3, 3)).astype(np.float32)
    tensors, weights = session.tensors({"w": weight})
    x, y = (helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", SAMPLE), ("y", None)))
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "block", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 13)]
    return Structure(helper.make_model(graph, opset_imports=opsets, ir_version=8), weights)


def _machine() -> list[object]:
    """What every time depends on."""
    import onnxruntime as ort

    return [ort.__version__, PROVIDER, THREADS, _processor()]


def _key(form: SubgraphPair) -> str:
    """A digest of what the time of some operators depends on."""
    names: dict[str, str] = {}
    described = _machine()
    described += [(_named(names, n), shape, kind.name) for n, (shape, kind) in form.inputs.items()]
    for node in (*form.old, *form.new):
        attributes = sorted((a.name, a.SerializeToString(deterministic=True).hex()) for a in node.attribute)
        values = [[_named(names, name) for name in group] for group in (node.input, node.output)]
        described.append((node.domain, node.op_type, attributes, values))
    described += [(names[n], a.shape, str(a.dtype)) for n, a in form.constants.items() if n in names]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _named(names: dict[str, str], name: str) -> str:
    return names.setdefault(name, f"v{len(names)}") if name else ""


def _processor() -> str:
    """What tells one kind of processor from another."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        wanted = ("model name", "flags", "Features", "CPU part")
        lines = {
            key.strip(): value.strip()
            for key, _, value in (line.partition(":") for line in text.splitlines())
            if key.strip() in wanted
        }
        if lines:
            return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()
    return f"{platform.machine()} {platform.processor()}"

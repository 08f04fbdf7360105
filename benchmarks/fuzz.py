"""Random graphs, small networks under budgets, backend tests and mutated files, by the thousand.

    python -m benchmarks.fuzz --graphs 100000 [--seed 0] [--jobs 2] [--out FOLDER]
    python -m benchmarks.fuzz --networks 1000
    python -m benchmarks.fuzz --files 50000
    python -m benchmarks.fuzz --backend

Each kind has a file of results in FOLDER, one line a case: a run that is stopped goes on there. What fails is
reduced to a few nodes and kept there too. Exits with 1 where there is a fault, and with 0 else.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from tests.fuzz.checking import FAULTS, HARMLESS, SECONDS, WAITING, Finding
from tests.fuzz.sources import SOURCES

CACHE = Path(__file__).parent / ".cache" / "fuzz"
PATIENCE = 2 * WAITING * SECONDS
"""Seconds after which a case is given up, with its process: neither library nor shrinking came to an end."""
ALLOWED = 0.005
"""Part of the graphs in which verification alone may stop a rewrite."""


def _work(source: str, pipe: Connection, folder: Path, careful: bool) -> None:
    """A process that checks the cases that it is sent, until it is sent none."""
    found = SOURCES[source].made(folder, careful=careful)
    while (case := pipe.recv()) is not None:
        pipe.send(asdict(found(case)))


class Worker:
    """A process at work, and the case that it is at."""

    def __init__(self, source: str, folder: Path, *, careful: bool = False) -> None:
        self.careful = careful
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(source, theirs, folder, careful), daemon=True
        )
        self.process.start()
        theirs.close()
        self.case: int | None = None
        self.since = time.monotonic()

    def begin(self, case: int) -> None:
        """Sends it a case."""
        self.case, self.since = case, time.monotonic()
        self.pipe.send(case)

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def findings(
    source: str, cases: Iterable[int], jobs: int, folder: Path
) -> Iterator[tuple[int, dict[str, Any]]]:
    """What came of each case, in the order in which they end; a process that dies or hangs is replaced.

    A case that ends its process is checked once more, carefully: it may be the original that does.
    """
    left = iter(cases)
    workers: list[Worker] = []
    try:
        while True:
            while len(workers) < jobs and (case := next(left, None)) is not None:
                workers.append(Worker(source, folder))
                workers[-1].begin(case)
            if not workers:
                return
            wait([worker.pipe for worker in workers], timeout=1)
            for worker in list(workers):
                over = time.monotonic() - worker.since > PATIENCE
                if not worker.pipe.poll() and not over:
                    continue
                try:
                    answer = worker.pipe.recv() if worker.pipe.poll() else None
                except EOFError:
                    answer = None
                if answer is None:
                    worker.process.join(timeout=5)
                    how = f"exit code {worker.process.exitcode}"
                    answer = asdict(Finding("hang", f"over {PATIENCE} s") if over else Finding("crash", how))
                    workers.remove(worker)
                    worker.end()
                    if answer["kind"] == "crash" and not worker.careful:
                        workers.append(Worker(source, folder, careful=True))
                        workers[-1].begin(worker.case or 0)
                        continue
                    yield worker.case or 0, answer
                    continue
                yield worker.case or 0, answer
                if worker.careful or (case := next(left, None)) is None:
                    workers.remove(worker)
                    worker.end()
                else:
                    worker.begin(case)
    finally:
        for worker in workers:
            worker.end()


def run(source: str, count: int, seed: int, jobs: int, folder: Path) -> bool:
    """Checks the cases of one source that have no result yet, and prints the figures of all.

    Args:
        source: which kind of cases.
        count: how many.
        seed: the first.
        jobs: processes.
        folder: where results are.

    Returns:
        Whether there is no fault, and few enough rewrites that verification alone stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source}.jsonl"
    wanted = range(seed, seed + count)
    results = {case: found for case, found in _read(path) if case in wanted}
    todo = [case for case in wanted if case not in results]
    print(f"{source}: {len(results)} of {count} are done, {path}", flush=True)
    start = time.monotonic()
    with path.open("a") as file:
        for number, (case, found) in enumerate(findings(source, todo, jobs, folder), start=1):
            results[case] = found
            file.write(json.dumps({"case": case, **{k: v for k, v in found.items() if v}}) + "\n")
            file.flush()
            if found["kind"] in FAULTS:
                print(f"  {case} {found['kind']}: {found['detail'][:200]}", flush=True)
            if number % 1000 == 0:
                rate = number / (time.monotonic() - start)
                print(f"  {len(results)} of {count}, {rate:.1f} a second", flush=True)
    return _figures(source, list(results.values()))


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                found = json.loads(line)
            except ValueError:  # cut off when a run was stopped
                continue
            yield found.pop("case"), {"detail": "", "stopped": [], "applied": {}, **found}


def _figures(source: str, results: list[dict[str, Any]]) -> bool:
    kinds = Counter(found["kind"] for found in results)
    ran = sum(kinds.values()) - kinds["unrunnable"]
    print(f"{source}: {ran} that onnxruntime runs, of {len(results)}")
    for kind in HARMLESS[2:]:
        if kinds[kind]:
            print(f"  {kinds[kind]:7d} {kind}")
    for kind, called in FAULTS.items():
        print(f"  {kinds[kind]:7d} {called}")
    stopped = [{rewrite for rewrite, _ in found["stopped"]} for found in results]
    part = sum(map(bool, stopped)) / max(1, ran)
    print(f"  {sum(map(bool, stopped)):7d} ({part:.2%}) in which verification alone stopped a rewrite:")
    applied: Counter[str] = Counter()
    for found in results:
        applied.update(found["applied"])
    for rewrite, number in Counter(name for each in stopped for name in each).most_common():
        print(f"  {number:15d} {rewrite}, applied {applied[rewrite]} times")
    print("  applied: " + ", ".join(f"{name} {number}" for name, number in applied.most_common()))
    return not any(kinds[kind] for kind in FAULTS) and part <= ALLOWED


def main() -> int:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, source in SOURCES.items():
        number = {"nargs": "?", "const": -1} if source.most else {}
        parser.add_argument(f"--{name}", type=int, default=0, metavar="N", help=source.help, **number)
    parser.add_argument("--seed", type=int, default=0, help="the first case")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=CACHE, help="folder of results")
    asked = parser.parse_args()
    passed = True
    for name, source in SOURCES.items():
        count = getattr(asked, name)
        if count < 0 and source.most:
            count = source.most()
        if count:
            passed &= run(name, count, asked.seed, asked.jobs, asked.out)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

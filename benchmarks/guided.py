"""Files for the readers, mutated so that they reach more of the code: fuzzing that coverage guides.

    python -m benchmarks.guided [READER ...] [--runs 5000] [--out FOLDER]

Each reader (`tests.fuzz.readers.READERS`) has a process of its own and a folder of inputs that reached
something new, from which the next run goes on. A fault ends its process; the input stays in FOLDER. Needs
`pip install -e '.[dev,dev-fuzz]'`. Exits with 1 where there is a fault, with 2 without atheris, else with 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path(__file__).parent / ".cache" / "guided"
NAMES = (
    "model",
    "bodies",
    "external data",
    "npz",
    "npy",
    "recipe",
    "preprocessing",
    "provenance",
    "images",
    "times",
)


def fuzz(name: str, runs: int, folder: Path) -> None:
    """Fuzzes one reader; ends the process, with another code than 0 where there is a fault."""
    import atheris

    with atheris.instrument_imports(include=["graphopt"]):  # before anything of graphopt is imported
        from tests.fuzz import readers
    corpus, work = folder / name.replace(" ", "-"), Path(tempfile.mkdtemp(prefix="guided-"))
    corpus.mkdir(parents=True, exist_ok=True)
    paths = readers.READERS[name].mutated
    for number, path in enumerate(paths):
        (corpus / f"valid{number}").write_bytes(bytes([number]) + readers.valid(name)[path])

    def reads(data: bytes) -> None:
        """The first byte decides which of the files it is."""
        path = paths[data[0] % len(paths)] if data else paths[0]
        found = readers.checked(name, {path: data[1:]}, work)
        if found.fault:
            raise AssertionError(f"{found.kind}: {found.detail}")

    options = [
        f"-runs={runs}",
        "-seed=1",
        "-max_len=32768",
        "-print_final_stats=1",
        f"-artifact_prefix={folder}/fault-",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], reads)
    atheris.Fuzz()


def main() -> int:
    """Fuzzes the readers that are named, one after the other."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "readers", nargs="*", metavar="READER", help=f"{', '.join(NAMES)}; all where none is named"
    )
    parser.add_argument("--runs", type=int, default=5000, help="of each")
    parser.add_argument(
        "--out", type=Path, default=CACHE, help="folder of inputs that reached something new, and faults"
    )
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is missing: pip install -e '.[dev,dev-fuzz]'", file=sys.stderr)
        return 2
    if asked.alone:
        fuzz(asked.readers[0], asked.runs, asked.out)
    failed = []
    for name in asked.readers or NAMES:
        command = [sys.executable, "-m", "benchmarks.guided", name, "--alone"]
        ran = subprocess.run(
            [*command, f"--runs={asked.runs}", f"--out={asked.out}"],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = ran.stderr.splitlines()
        reached = next((line for line in reversed(lines) if " cov: " in line), "").strip()
        print(f"{name}: {'a fault' if ran.returncode else 'no fault'}; {reached}", flush=True)
        if ran.returncode:
            failed.append(name)
            print("\n".join(f"  {line}" for line in lines[-12:]), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

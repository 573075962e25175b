"""Seconds until the commands that only read have answered, as whole processes.

python bench/startup.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from record import Section, record

LIMITS = {"--help": 0.25, "sweep stdlib-ladder": 1.5}  # seconds, from the project's goals
COMMANDS = (
    "--help",
    "plan stdlib-ladder",
    "sweep stdlib-ladder",
    "status stdlib-ladder",
    "fit stdlib-ladder",
    "predict stdlib-ladder --n 1M",
    "report stdlib-ladder",
)


def is_done(results: Path) -> bool:
    """Whether the shipped results are of this Python's standard library, so that the sweep has nothing to do."""
    scalectl = str(Path(sys.executable).parent / "scalectl")
    command = [scalectl, "plan", "stdlib-ladder", "--detailed-exitcode", "--results", str(results)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def seconds(command: str, results: Path) -> float:
    scalectl = str(Path(sys.executable).parent / "scalectl")
    begin = time.perf_counter()
    done = subprocess.run(
        [scalectl, *command.split()],
        env={**os.environ, "SCALECTL_RESULTS": str(results)},
        capture_output=True,
        text=True,
    )
    spent = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    assert not command.startswith("sweep") or "Nothing to do" in done.stdout, done.stdout
    return spent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        shutil.copytree(Path(__file__).parents[1] / "results/reference", results)
        commands = COMMANDS if is_done(results) else tuple(c for c in COMMANDS if not c.startswith("sweep"))
        measured: dict[str, list[float]] = {command: [] for command in commands}
        for _ in range(given.rounds + 1):
            for command in commands:
                measured[command].append(seconds(command, results))
    rows = [
        {
            "command": f"scalectl {command}",
            "median s": round(median(times[1:]), 3),
            "least s": round(min(times[1:]), 3),
            "goal s": LIMITS.get(command, ""),
        }
        for command, times in measured.items()
    ]
    record(Path(__file__).stem, [Section("rows", f"Whole processes, median of {given.rounds}", rows)])


if __name__ == "__main__":
    main()

"""Seconds of a whole sweep over nine token budgets, ratio √2: one trunk and its branches against every run by itself.

    python bench/branching.py [--rounds 5]

Three sweeps as a user starts them, on one core, interleaved: wsd as it is, wsd with [runtime] branch = false, and
cosine, whose runs share nothing. The least possible share of the work is 1 / 2.25 at a cooldown of 20 %.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pandas as pd
from record import Section, record

from scalectl.commands.sweep import prepare

LENGTHS = [round(100 * 2 ** (i / 2)) for i in range(9)]
SWEEP = """\
name = "branching"
[model]
family = "decoder"
d_model = 64
n_layer = 2
n_head = 4
context = 64
[data]
source = "stdlib"
[train]
steps = {{ grid = {lengths} }}
batch_tokens = 512
lr = 0.01
schedule = "{schedule}"
warmup = 20
decay = 0.2
[eval]
every = 100
tokens = 8192
[runtime]
slots = 1
probe = false
branch = {branch}
"""
WAYS = {"wsd, branched": ("wsd", "true"), "wsd, one by one": ("wsd", "false"), "cosine": ("cosine", "true")}


def sweep(folder: Path, way: str) -> tuple[float, pd.DataFrame]:
    """Seconds of the sweep's process, and its measurements without their times."""
    schedule, branch = WAYS[way]
    (folder / "sweep.toml").write_text(SWEEP.format(lengths=LENGTHS, schedule=schedule, branch=branch))
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "scalectl.cli", "sweep", "sweep.toml"], cwd=folder, capture_output=True, text=True
    )
    spent = time.perf_counter() - begin
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(folder / "results/runs").drop(columns="seconds")
    return spent, rows.sort_values(["run_id", "step", "split", "metric"]).reset_index(drop=True)


def trained(folder: Path, way: str) -> float:
    """FLOPs that the sweep trains."""
    schedule, branch = WAYS[way]
    path = folder / f"{schedule}-{branch}.toml"
    path.write_text(SWEEP.format(lengths=LENGTHS, schedule=schedule, branch=branch))
    return prepare(str(path), str(folder / "none")).flops


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    equal = True
    with tempfile.TemporaryDirectory() as held:
        flops = {way: trained(Path(held), way) for way in WAYS}
        for number in range(given.rounds):
            found = {}
            for way in WAYS:
                folder = Path(held) / f"{number}-{way}"
                folder.mkdir()
                spent, found[way] = sweep(folder, way)
                seconds[way].append(spent)
            equal &= found["wsd, branched"].equals(found["wsd, one by one"])
    first = seconds["wsd, branched"]
    rows = [
        {
            "setting": way,
            "FLOP": f"{flops[way]:.4g}",
            "median s": round(median(times), 2),
            "times the branched": round(median(b / a for a, b in zip(first, times, strict=True)), 2),
            "least, most": f"{min(b / a for a, b in zip(first, times, strict=True)):.2f}, "
            f"{max(b / a for a, b in zip(first, times, strict=True)):.2f}",
            "rows equal the branched": {"wsd, one by one": equal}.get(way, ""),
        }
        for way, times in seconds.items()
    ]
    title = f"Nine lengths, {LENGTHS[0]} to {LENGTHS[-1]} steps, one core, median of {given.rounds} interleaved rounds"
    record(Path(__file__).stem, [Section("rows", title, rows)])


if __name__ == "__main__":
    main()

"""What scalectl itself costs: 1,000 runs of one step, a plan and a status of 10,000 runs, reading 10^7 rows.

    python bench/overhead.py [--store DIR] [--part runs|plan|status|rows]

The store of 10,000 runs of 1,000 rows each takes minutes to write: DIR keeps it for the next time. Every part runs in
processes of its own, with the bytecode that an installed package has; files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from record import RESULTS, Section, record

from scalectl.core.job import State
from scalectl.core.rows import HELD_OUT, LOSS, TRAIN, Row
from scalectl.core.run import record as run_record
from scalectl.store.layout import open_store
from scalectl.store.sweeps import save_sweep
from scalectl.store.writer import write_run
from scalectl.sweep.plan import PlannedRun, expand
from scalectl.sweep.spec import parse_sweep

RUNS, EVALUATIONS = 10_000, 500  # of the store; a row on train and one on held-out data each
SHORT, BARE = 1_000, 20  # runs of one step; processes of the bare loop
ROUNDS = 5
SWEEP = """\
name = "many"
question = "What does a run cost beside its training?"

[model]
family = "decoder"
d_model = {{ grid = [8, 16, 24, 32, 40, 48, 56, 64, 72, 80] }}
n_layer = 1
n_head = 2
context = 16

[data]
source = "markov"
length = 200000

[train]
steps = {steps}
batch_tokens = 64
lr = {{ grid = [0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01] }}
warmup = 0
seed = {{ grid = {seeds} }}

[eval]
every = 50
tokens = 480
"""
STEP = """\
import torch
torch.set_num_threads(1)
layer = torch.nn.TransformerEncoderLayer(40, 2, 160, 0.0, batch_first=True)
model = torch.nn.Sequential(torch.nn.Embedding(32, 40), layer, torch.nn.Linear(40, 32))
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
x = torch.randint(32, (4, 17))
loss = torch.nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
loss.backward()
optimizer.step()
print(loss.item())
"""
PLAN = """\
import sys, time
import scalectl.report.plan_screen, scalectl.sweep.spec
from scalectl.commands.plan import view
from scalectl.commands.sweep import prepare
begin = time.perf_counter()
view(prepare(sys.argv[1], sys.argv[2]))
print(time.perf_counter() - begin)
"""
ROWS = """\
import sys, time
import pandas, pyarrow.compute
from scalectl.store.compact import load_rows
from scalectl.store.layout import open_store
from scalectl.store.sweeps import load_sweep
store = open_store(sys.argv[1], writable=sys.argv[2] == "write")
run_ids = load_sweep(store, "many").current
begin = time.perf_counter()
frame, _ = load_rows(store, run_ids, metric="loss", sweep=None if sys.argv[2] == "each" else "many")
print(time.perf_counter() - begin, len(frame))
"""


def sweep_text(runs: int, steps: int) -> str:
    return SWEEP.format(steps=steps, seeds=list(range(runs // 100)))


def python(*arguments: object, **own: str) -> str:
    """What a Python process prints. own: of its environment."""
    compiled = {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir(), "scalectl-bench-bytecode")),
    }
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **compiled, **own},
    )
    return done.stdout


def asked(*arguments: object) -> list[float]:
    """The numbers that a Python process prints."""
    return [float(part) for part in python(*arguments).split()]


def seconds(*arguments: object, results: Path) -> float:
    """Of a whole process of scalectl."""
    begin = time.perf_counter()
    python("-m", "scalectl.cli", *arguments, SCALECTL_RESULTS=str(results))
    return time.perf_counter() - begin


def rows_of(planned: PlannedRun) -> Iterator[Row]:
    run, every = planned.run, planned.run.steps // EVALUATIONS
    for step in range(every, run.steps + 1, every):
        tokens = step * run.batch_tokens
        loss = 2 + 3 * step**-0.3 * (1 + 1e-3 * run.seed)
        for split, value in ((TRAIN, loss + 0.01), (HELD_OUT, loss)):
            yield Row(run.run_id, step, tokens, planned.flops / planned.tokens * tokens, split, LOSS, value, step / 1e3)


def write_some(root: Path, share: int, shares: int) -> None:
    store = open_store(root)
    provenance = {"scalectl": "0.1.0", "source": "bench", "sources": ["bench"]}
    for planned in expand(parse_sweep(sweep_text(RUNS, 50 * EVALUATIONS))).runs[share::shares]:
        assert isinstance(planned, PlannedRun)
        columns = {f"N_{convention}": n for convention, n in planned.n.items()} | {"C_6nd": planned.c_6nd, "pack": 16}
        write_run(store, planned.run, rows_of(planned), State.DONE, provenance, columns)


def build(root: Path) -> None:
    """The store of 10,000 finished runs, unless it is there."""
    store, text = open_store(root), sweep_text(RUNS, 50 * EVALUATIONS)
    if store.sweep_folder("many").exists():
        return
    store.prepare()
    shares = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(shares) as pool:
        list(pool.map(write_some, [root] * shares, range(shares), [shares] * shares))
    plan = expand(parse_sweep(text)).runs
    save_sweep(store, "many", text, [{"run_id": p.run_id, "config": run_record(p.run), **p.cell} for p in plan])
    seconds("status", "many", results=root)  # makes the index


def of_runs(folder: Path) -> list[dict[str, Any]]:
    file, script = folder / "many.toml", folder / "step.py"
    file.write_text(sweep_text(SHORT, 1))
    script.write_text(STEP)
    slots = len(os.sched_getaffinity(0))
    asked(script)  # compiles what it imports
    ours = seconds("sweep", file, results=folder / "results") / SHORT
    begin = time.perf_counter()
    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(lambda _: asked(script), range(BARE)))
    bare = (time.perf_counter() - begin) / BARE
    return [
        {"setting": f"scalectl sweep, {SHORT} runs, packed", "s per run": round(ours, 4), "runs/s": round(1 / ours, 1)},
        {
            "setting": f"a process for each run, {slots} at once",
            "s per run": round(bare, 4),
            "runs/s": round(1 / bare, 1),
        },
    ]


def of_plan(folder: Path) -> list[dict[str, Any]]:
    file = folder / "many10k.toml"
    file.write_text(sweep_text(RUNS, 1))
    seconds("plan", file, results=folder / "empty")
    times = [asked("-c", PLAN, file, folder / "empty")[0] for _ in range(ROUNDS)]
    whole = [seconds("plan", file, results=folder / "empty") for _ in range(ROUNDS)]
    return [
        row(f"plan of {RUNS:,} runs, after imports", times, 3.0),
        row(f"scalectl plan of {RUNS:,} runs, the whole process", whole),
    ]


def of_status(root: Path) -> list[dict[str, Any]]:
    seconds("status", "many", results=root)
    times = [seconds("status", "many", results=root) for _ in range(ROUNDS)]
    return [row(f"scalectl status of {RUNS:,} finished runs, the whole process", times, 1.0)]


def of_rows(root: Path) -> list[dict[str, Any]]:
    each = asked("-c", ROWS, root, "each")
    asked("-c", ROWS, root, "write")
    times = [asked("-c", ROWS, root, "read") for _ in range(ROUNDS)]
    assert {found[1] for found in (each, *times)} == {2.0 * RUNS * EVALUATIONS}
    compacted = [found[0] for found in times]
    return [
        row(f"{each[1]:,.0f} rows of {RUNS:,} runs, compacted, into pandas", compacted, 3.0),
        row("the same from the run files, one by one", [each[0]]),
        {"setting": "times faster", "median": round(each[0] / median(compacted), 1), "least": "", "goal": 20},
    ]


def row(setting: str, times: list[float], goal: float | str = "") -> dict[str, Any]:
    return {"setting": setting, "median": round(median(times), 3), "least": round(min(times), 3), "goal": goal}


TITLES = {
    "runs": "Runs of one step",
    "plan": f"Planning, seconds, {ROUNDS} times",
    "status": f"Status, seconds, {ROUNDS} times",
    "rows": f"Reading, seconds, {ROUNDS} times",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", type=Path, help="folder for the store of 10,000 runs, kept")
    parser.add_argument("--part", choices=TITLES, action="append", help="only these; the others stay as recorded")
    parser.add_argument("--build", action="store_true", help="only write the store")
    given = parser.parse_args()
    kept = RESULTS / f"{Path(__file__).stem}.json"
    before = json.loads(kept.read_text()) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = given.store or folder / "store"
        if given.build:
            build(root)
            return
        parts = {
            "runs": lambda: of_runs(folder),
            "plan": lambda: of_plan(folder),
            "status": lambda: (build(root), of_status(root))[1],
            "rows": lambda: (build(root), of_rows(root))[1],
        }
        wanted = given.part or list(parts)
        found = {key: part() if key in wanted else before.get(key) for key, part in parts.items()}
    record(Path(__file__).stem, [Section(key, TITLES[key], rows) for key, rows in found.items() if rows])


if __name__ == "__main__":
    main()

"""What `scalectl plan --probe` promises, beside what the sweep then takes: the demo sweep, and 40 runs of mixed sizes.

    python bench/planning.py [--sweep demo|mixed]

Each is planned from shapes alone, probed, and trained, in folders and with a cache of its own. The time of the sweep is
that of its whole process. It wants the machine to itself: what a neighbour takes is in no plan, and is told beside.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import RESULTS, Section, record

WITHIN = 0.25  # of what was measured
DEMO = Path(__file__).parents[1] / "sweeps/stdlib-ladder.toml"
MIXED = """\
name = "mixed"
question = "Does the plan hold where widths and depths differ?"

[model]
family = "decoder"
d_model = { grid = [8, 16, 32, 64, 96] }
n_layer = { grid = [1, 3] }
n_head = 4
context = 64

[data]
source = "stdlib"

[train]
steps = 400
batch_tokens = 1024
lr = { rule = "min(0.03, 0.4 / d_model)" }
warmup = 10
seed = { grid = [0, 1, 2, 3] }

[eval]
every = 50
tokens = 8192
"""
SWEEPS = {"demo": "The demo sweep", "mixed": "40 runs of mixed sizes"}


def scalectl(folder: Path, *arguments: object) -> str:
    """What a command prints. folder: of its results and of its cache of speeds."""
    own = {"SCALECTL_RESULTS": str(folder / "results"), "SCALECTL_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "scalectl.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **own}).stdout


def busy() -> float:
    """Seconds that all cores have computed for anybody but this process's ended children."""
    user, nice, system = map(int, Path("/proc/stat").read_text().split(maxsplit=4)[1:4])
    own = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - own.ru_utime - own.ru_stime


def trial(folder: Path, file: Path) -> list[dict[str, Any]]:
    """Plan, probe and train one sweep."""
    shapes = json.loads(scalectl(folder, "plan", file, "--json"))["seconds"]
    begin = time.perf_counter()
    probed = json.loads(scalectl(folder, "plan", file, "--probe", "--json"))["seconds"]
    probing = time.perf_counter() - begin
    begin, before = time.perf_counter(), busy()
    scalectl(folder, "sweep", file)
    wall = time.perf_counter() - begin
    others = (busy() - before) / (wall * len(os.sched_getaffinity(0)))
    rows = []
    for setting, seconds, goal in (("from shapes", shapes, ""), (f"probed, in {probing:.0f} s", probed, WITHIN)):
        error = seconds / wall - 1
        verdict = "" if not goal else "met" if abs(error) <= WITHIN else "missed"
        rows.append(
            {"setting": setting, "planned s": round(seconds, 1), "taken s": round(wall, 1), "error": f"{error:+.0%}"}
            | {"goal": goal and f"{goal:.0%}", "verdict": verdict, "of the cores to others": f"{others:.0%}"}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweep", choices=SWEEPS, action="append", help="only these; the others stay as recorded")
    given = parser.parse_args()
    kept = RESULTS / f"{Path(__file__).stem}.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "mixed.toml").write_text(MIXED)
        files = {"demo": DEMO, "mixed": Path(name) / "mixed.toml"}
        for sweep in given.sweep or SWEEPS:
            found[sweep] = trial(Path(name) / sweep, files[sweep])
    record(Path(__file__).stem, [Section(key, title, found[key]) for key, title in SWEEPS.items() if key in found])


if __name__ == "__main__":
    main()

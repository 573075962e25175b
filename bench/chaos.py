"""A sweep whose processes are killed at random until it ends, beside the same sweep left alone.

    python bench/chaos.py [--seconds 180] [--every 3] [--runs 300]

For so many seconds somebody SIGKILLs a worker or the orchestrator of a 300-run sweep on two slots, every three seconds
on average; the orchestrator is started again each time. Then it may finish. Checked at the end: every run is done, none
was trained to its end after its file was there, no step is stored twice, no process is left, trainers end within three
seconds of their orchestrator's death, and every loss equals that of the quiet sweep bit for bit. A third sweep is
trained by two orchestrators at once: every run by exactly one of them.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
from record import RESULTS, Section, record

WORDS = ("setting", "found", "wanted", "verdict")
FIRST = 1500  # steps of a run that are tried first
OUTLASTS = 0.85  # the quiet sweep takes so much of the time of the killing, and the other one 1.3 to 2.3 times as long
LIMIT = 3.0  # seconds in which trainers end once their orchestrator was killed
SWEEP = """\
name = "chaos"
[model]
family = "decoder"
d_model = 8
n_layer = 1
n_head = 2
context = 16
[data]
source = "markov"
length = 200000
[train]
steps = {steps}
batch_tokens = 64
lr = 0.01
warmup = 4
seed = {{ grid = {seeds} }}
[eval]
every = 50
tokens = 480
[runtime]
checkpoint_seconds = 2
slots = 2
"""


@dataclass
class Trial:
    """One sweep in a folder of its own, and what was seen of it."""

    folder: Path
    sweep: str
    deaths: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    lingering: float = 0.0  # the longest that a trainer outlived its orchestrator [s]
    killing: float = 0.0  # for how long processes were killed [s]
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        (self.folder / "sweep.toml").write_text(self.sweep)
        self.notes = self.folder / "notes"
        self.notes.touch()

    def start(self, slots: int = 2) -> subprocess.Popen[bytes]:
        """An orchestrator. Its runs note where they end."""
        self.starts += 1
        command = [sys.executable, "-m", "scalectl.cli", "sweep", "sweep.toml", f"--set=runtime.slots={slots}"]
        own = {**os.environ, "SCALECTL_FAULT": f"worker.before_file=note@{self.notes}"}
        with (self.folder / "said").open("ab") as said:
            return subprocess.Popen(command, cwd=self.folder, env=own, stdout=said, stderr=said)

    def trainers(self) -> list[psutil.Process]:
        """Living processes that train into this folder."""
        root, found = str((self.folder / "results").resolve()), []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if root in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def quiet(self) -> None:
        """Train it without disturbance."""
        began = time.monotonic()
        assert self.start().wait() == 0
        self.seconds = time.monotonic() - began

    def together(self) -> list[int]:
        """Train it by two orchestrators at once. Returns: their exit codes."""
        began = time.monotonic()
        rivals = [self.start(slots=1) for _ in range(2)]
        codes = [rival.wait() for rival in rivals]
        self.seconds = time.monotonic() - began
        return codes

    def chaos(self, seconds: float, every: float, dice: random.Random) -> None:
        """Kill a random process again and again, then let the sweep end."""
        began = time.monotonic()
        orchestrator = self.start()
        while time.monotonic() - began < seconds:
            until = time.monotonic() + dice.expovariate(1 / every)
            while time.monotonic() < until and orchestrator.poll() is None:
                time.sleep(0.02)
            if orchestrator.poll() is not None:  # it gave up, or all is done
                if orchestrator.returncode == 0:
                    break
                self.deaths[f"orchestrator, by itself, code {orchestrator.returncode}"] += 1
                orchestrator = self.start()
                continue
            workers = self.trainers()
            victim = dice.randrange(1 + len(workers))
            if victim:
                with contextlib.suppress(psutil.Error):
                    workers[victim - 1].kill()
                    self.deaths["worker"] += 1
            else:
                self.deaths["orchestrator"] += 1
                orchestrator.send_signal(signal.SIGKILL)
                orchestrator.wait()
                killed = time.monotonic()
                while any(process.pid in {held.pid for held in workers} for process in self.trainers()):
                    assert time.monotonic() - killed < 60, "trainers outlive their orchestrator"
                    time.sleep(0.02)
                self.lingering = max(self.lingering, time.monotonic() - killed)
                orchestrator = self.start()
        self.killing = time.monotonic() - began
        for _ in range(20):
            if orchestrator.wait() == 0:
                break
            orchestrator = self.start()
        self.seconds = time.monotonic() - began

    def rows(self) -> pd.DataFrame:
        """All measurements but their times."""
        frame = pd.read_parquet(self.folder / "results/runs").drop(columns="seconds")
        return frame.sort_values(["run_id", "step", "split", "metric"]).reset_index(drop=True)

    def ends(self) -> dict[str, list[float]]:
        """When each run was about to be written [Unix seconds]."""
        found: dict[str, list[float]] = {}
        for line in self.notes.read_text().splitlines():
            clock, _, _, run_id, _ = line.split()
            found.setdefault(run_id, []).append(float(clock))
        return found

    def trained_again(self) -> int:
        """Runs that came to their end once more after their file was there."""
        again = 0
        for run_id, clocks in self.ends().items():
            written = (self.folder / f"results/runs/{run_id}.parquet").stat().st_mtime
            again += sum(clock > written + 0.001 for clock in clocks)
        return again

    def done(self) -> int:
        """Runs that are done."""
        return int((pd.read_parquet(self.folder / "results/index.parquet")["state"] == "done").sum())


def checks(trial: Trial, quiet: Trial, runs: int) -> list[dict[str, object]]:
    """What must hold of a trial, each with what was found."""
    rows = trial.rows()
    twice = int(rows.duplicated(["run_id", "step", "split", "metric"]).sum())
    left = trial.trainers()
    equal = rows.equals(quiet.rows())
    found = [
        ("runs done", trial.done(), runs, trial.done() == runs),
        ("runs trained to the end after their file was there", trial.trained_again(), 0, trial.trained_again() == 0),
        ("measurements stored twice", twice, 0, twice == 0),
        ("processes left", len(left), 0, not left),
        ("losses equal those of the quiet sweep bit for bit", equal, True, equal),
        (
            f"trainers gone {LIMIT:g} s after their orchestrator",
            round(trial.lingering, 2),
            LIMIT,
            trial.lingering < LIMIT,
        ),
    ]
    return [dict(zip(WORDS, (*line[:3], "met" if line[3] else "missed"), strict=True)) for line in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--steps", type=int, help="of a run [default: enough to outlast the killing]")
    parser.add_argument("--seconds", type=float, default=180.0, help="for which processes are killed")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of chaos.json and chaos.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        steps, seeds = given.steps or FIRST, list(range(given.runs))
        while True:
            sweep = SWEEP.format(steps=steps, seeds=seeds)
            quiet = Trial(Path(folder, f"quiet-{steps}"), sweep)
            quiet.quiet()
            share = quiet.seconds / (OUTLASTS * given.seconds)
            if given.steps is not None or share >= 1:
                break
            steps = math.ceil(1.1 * steps / share)
        trial, both = (Trial(Path(folder, name), sweep) for name in ("chaos", "together"))
        print(f"quiet: {quiet.seconds:.0f} s of {steps} steps", file=sys.stderr)
        trial.chaos(given.seconds, given.every, random.Random(given.seed))
        print(f"chaos: {trial.seconds:.0f} s, {dict(trial.deaths)}", file=sys.stderr)
        codes = both.together()
        ends = Counter(map(len, both.ends().values()))
        repeated = sum(len(clocks) > 1 for clocks in trial.ends().values())
        killed = ", ".join(f"{name} {count}" for name, count in sorted(trial.deaths.items()))
        notes = (
            f"{given.runs} runs of {steps} steps on 2 slots. Quiet: {quiet.seconds:.0f} s."
            f" Chaos: {trial.seconds:.0f} s in all, with a SIGKILL every {given.every:g} s on average for"
            f" {given.seconds:g} s; killed: {killed}; orchestrators started: {trial.starts}. {repeated} runs came to"
            f" their end more than once, since a kill came before their file. Two orchestrators: {both.seconds:.0f} s,"
            f" exit codes {codes}; runs by how often they were trained to the end: {dict(ends)}."
        )
        long = trial.killing >= given.seconds
        lasted = ("processes killed for, s", round(trial.killing), given.seconds, "met" if long else "missed")
        found = [dict(zip(WORDS, lasted, strict=True)), *checks(trial, quiet, given.runs)]
        sections = [
            Section("chaos", "After the chaos", found),
            Section("together", "After two orchestrators at once", checks(both, quiet, given.runs)),
        ]
        record(Path(__file__).stem, sections, folder=given.results, notes=notes)
        missed = [row["setting"] for section in sections for row in section.rows if row["verdict"] == "missed"]
        if missed or set(ends) != {1}:
            sys.exit(f"missed: {missed}, ends {dict(ends)}")


if __name__ == "__main__":
    main()

"""Sixteen small runs from start to end, start-up included: one sweep against one process per run.

    python bench/sixteen.py [--rounds 8]

    sweep       scalectl sweep SWEEP.toml, sixteen seeds, a fresh results folder
    plain       python bench/plain_gpt2.py TRAIN.bin HELD_OUT.bin --seed S, one after the other
    plain, two  the same, two at a time, each pinned to a core
    one run     python bench/one_run.py SWEEP.toml S, this engine, one after the other

All train L1 d16 T64 B4 (8 k parameters) on the same text for 800 steps in fp32 and measure the held-out loss once, on
the same text. The peer reads bytes that were written beforehand; a trial gives it the best of its settings. The rounds
interleave: each sweeps once, trains its part of the sixteen runs as plain and as one run, and three rounds hold the
whole of `plain, two`. Ratios are medians over rounds; every run of every kind is trained at least once.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import pandas as pd
from record import RESULTS, Section, record
from shapes import HELD_OUT_TOKENS, PEAK_RATE, WARMUP, Shape

from scalectl.executors.local import ALLOCATOR
from scalectl.tasks import TASKS

HERE = Path(__file__).parent
SHAPE = Shape(1, 16, 4, 64, 4)
GOALS = {"plain": 16.0, "plain, two": 8.0, "one run": 6.0}  # times the seconds of the sweep
SETTINGS: dict[str, dict[str, str]] = {  # of the peer's process
    "as it comes": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
    "one thread, our allocator": {"OMP_NUM_THREADS": "1", **ALLOCATOR},
}


@dataclass
class Contest:
    """The files of all contenders, and how the peer is started. folder: for files and results."""

    folder: Path
    runs: int
    steps: int
    cores: list[int]
    setting: str = "one thread"
    losses: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file = self.folder / "sweep.toml"
        self.file.write_text(SHAPE.sweep(range(self.runs), "fp32", self.steps))
        data = TASKS["text"].open_data(SHAPE.run("fp32", 0).task.options)
        data.train.tofile(self.folder / "train.bin")
        data.held_out(HELD_OUT_TOKENS, SHAPE.context).astype(np.uint8).tofile(self.folder / "held_out.bin")

    def sweep(self) -> float:
        """Seconds of the sweep."""
        with tempfile.TemporaryDirectory(dir=self.folder) as results:
            scalectl = [str(Path(sys.executable).with_name("scalectl"))]
            options = ["--results", results]
            seconds, _ = self._timed([*scalectl, "sweep", str(self.file), *options], {}, None)
            table = Path(results, "runs.csv")
            self._timed([*scalectl, "export", "bench", "-o", str(table), *options], {}, None)
            self.losses["sweep"] = list(pd.read_csv(table)["held-out/loss"])
        assert len(self.losses["sweep"]) == self.runs
        return seconds

    def plain(self, seed: int, core: int | None = None, setting: str | None = None) -> float:
        """Seconds of one run by the peer. core: to be pinned to."""
        script = [sys.executable, str(HERE / "plain_gpt2.py")]
        data = [str(self.folder / name) for name in ("train.bin", "held_out.bin")]
        shape = {"layers": SHAPE.layers, "width": SHAPE.width, "heads": SHAPE.heads, "context": SHAPE.context}
        rest = {"sequences": SHAPE.sequences, "steps": self.steps, "warmup": self.steps // WARMUP, "lr": PEAK_RATE}
        flags = [f"--{name}={value}" for name, value in (shape | rest | {"seed": seed}).items()]
        seconds, said = self._timed([*script, *data, *flags], SETTINGS[setting or self.setting], core)
        self._note("plain", said)
        return seconds

    def plain_two(self) -> float:
        """Seconds of all runs by the peer, one pinned process on each of two cores."""

        def on(core: int, seeds: range) -> None:
            for seed in seeds:
                self.plain(seed, core)

        begin = time.perf_counter()
        cores = self.cores[:2]
        with ThreadPoolExecutor(len(cores)) as pool:
            parts = [pool.submit(on, core, range(i, self.runs, len(cores))) for i, core in enumerate(cores)]
            for part in parts:
                part.result()
        return time.perf_counter() - begin

    def one_run(self, seed: int) -> float:
        """Seconds of one run by this engine in a process of its own, started as its workers are."""
        command = [sys.executable, str(HERE / "one_run.py"), str(self.file), str(seed)]
        seconds, said = self._timed(command, {"OMP_NUM_THREADS": "1", **ALLOCATOR}, self.cores[0])
        self._note("one run", said)
        return seconds

    def _note(self, name: str, said: str) -> None:
        found = re.search(r"held-out loss ([\d.]+)", said)
        assert found, said
        self.losses.setdefault(name, []).append(float(found[1]))

    def _timed(self, command: list[str], more: dict[str, str], core: int | None) -> tuple[float, str]:
        """Seconds of a process and what it said. Raises: RuntimeError if it failed."""
        pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
        own = {**os.environ, "SCALECTL_CACHE": str(self.folder / "cache")}  # as if no sweep had been here before
        begin = time.perf_counter()
        done = subprocess.run([*pinned, *command], env={**own, **more}, capture_output=True, text=True, check=False)
        spent = time.perf_counter() - begin
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: ended with code {done.returncode}\n{done.stderr[-2000:]}")
        return spent, done.stdout


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="at most one for each run")
    parser.add_argument("--whole", type=int, default=3, help="rounds that hold `plain, two`")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of sixteen.json and sixteen.md")
    given = parser.parse_args()
    if not 1 <= given.whole <= given.rounds <= given.runs or given.runs < 2:
        parser.error("--whole is at most --rounds, --rounds at most --runs, and --runs at least 2")
    return given


def main() -> None:
    given = arguments()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(Path(folder), given.runs, given.steps, sorted(os.sched_getaffinity(0)))
        first = contest.sweep()
        tried = {name: contest.plain(0, None if name == "as it comes" else contest.cores[0], name) for name in SETTINGS}
        contest.setting = min(tried, key=lambda name: tried[name])
        core = None if contest.setting == "as it comes" else contest.cores[0]
        contest.losses.clear()
        whole = {given.rounds * i // given.whole for i in range(given.whole)}
        for turn in range(given.rounds):
            seeds = range(turn, given.runs, given.rounds)
            seconds = {"sweep": contest.sweep()}
            seconds["plain"] = given.runs * fmean(contest.plain(seed, core) for seed in seeds)
            seconds["one run"] = given.runs * fmean(contest.one_run(seed) for seed in seeds)
            if turn in whole:
                alone = contest.losses.pop("plain")
                seconds["plain, two"] = contest.plain_two()
                contest.losses["plain"] = alone  # the same seeds give the same losses
            rounds.append(seconds)
            print(f"round {turn + 1}: {', '.join(f'{n} {s:.1f} s' for n, s in seconds.items())}", file=sys.stderr)
    shown = [row_of(name, rounds, contest.losses) for name in ("sweep", "plain", "plain, two", "one run")]
    notes = (
        f"{given.runs} runs of {given.steps} steps, {SHAPE}, on {len(contest.cores)} cores, {given.rounds} interleaved"
        f" rounds, {given.whole} of them with `plain, two`. The first sweep, which found nothing cached, took"
        f" {first:.1f} s. The peer ran with the setting {contest.setting!r}: one run took"
        f" {', '.join(f'{seconds:.2f} s {name}' for name, seconds in tried.items())}. {agreement(contest.losses)}"
    )
    title = f"{given.runs} runs of {given.steps} steps, 8 k parameters, start-up included"
    data: dict[str, Any] = {"rounds": rounds, "losses": contest.losses, "settings": tried, "first sweep": first}
    sections = [Section("rows", title, shown), Section("raw", "Rounds [s]", [rounded(one) for one in rounds], data)]
    record(Path(__file__).stem, sections, folder=given.results, notes=notes)


def row_of(name: str, rounds: list[dict[str, float]], losses: dict[str, list[float]]) -> dict[str, Any]:
    """One contender: median seconds for all runs, times the sweep, and the losses it ended at."""
    both = [one for one in rounds if name in one]
    ratio = median(one[name] / one["sweep"] for one in both)
    goal = GOALS.get(name)
    ends = losses.get(name, [])
    loss = f"{fmean(ends):.3f} ± {stdev(ends) / len(ends) ** 0.5:.3f}" if len(ends) > 1 else ""
    return {
        "contender": name,
        "rounds": len(both),
        "seconds": round(median(one[name] for one in both), 2),
        "times the sweep": round(ratio, 2),
        "goal": goal or "",
        "verdict": "" if goal is None else "met" if ratio >= goal else "missed",
        "held-out loss": loss,
    }


def agreement(losses: dict[str, list[float]]) -> str:
    """Whether all train the same model: the peer within noise of the sweep, a run alone equal to its row in a pack."""
    a, b = losses["sweep"], losses["plain"]
    apart = fmean(b) - fmean(a)
    error = (stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)) ** 0.5
    alone, packed = (sorted(round(loss, 4) for loss in losses[name]) for name in ("one run", "sweep"))
    return (
        f"The peer's mean loss is {apart:+.4f} ± {error:.4f} nats from the sweep's; runs alone end"
        f" {'at the same losses as' if alone == packed else 'at other losses than'} in the sweep."
    )


def rounded(one: dict[str, float]) -> dict[str, Any]:
    """A round as shown."""
    return {name: round(one[name], 2) if name in one else "-" for name in ("sweep", "plain", "plain, two", "one run")}


if __name__ == "__main__":
    main()

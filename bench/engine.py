"""This engine and its peers on one pinned thread: tokens per second, ratios and goals.

    python bench/engine.py [--rounds 7] [--nanogpt CHECKOUT] [--litgpt CHECKOUT] [--compile] [--profile]

Two processes hold the contenders of a shape, one with the engine's allocator settings, one without, and take turns on
one core: in each round every contender is measured once, each second round backwards. A ratio is the median over
rounds of the ratios within a round, so that a machine whose speed drifts slows both sides. A trial before the rounds
gives each peer the best of its settings (attention, activation, optimiser, allocator), and a pack its best K. Peers as
they come, with torch's default AdamW and allocator, stand beside them: goals are judged against both. The peak is a
product of large matrices, measured in the same rounds; FLOPs are the ledger's exact ones. Where the processor has no
products of bf16, which torch then emulates at a tenth of the speed or less, bf16 and its goals are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from record import RESULTS, Section, record
from shapes import Shape

from scalectl.core.units import count, si
from scalectl.executors.local import ALLOCATOR

SHAPES = (
    Shape(1, 16, 4, 64, 4),
    Shape(2, 32, 4, 128, 16),
    Shape(4, 64, 4, 128, 16),
    Shape(4, 128, 4, 128, 16),
    Shape(6, 256, 8, 256, 8),
)
PACKS = ((4, 8, 16, 32), (2, 4, 8), (2, 4), (2,), (2,))  # K tried at each shape
PRECISIONS = ("fp32", "bf16")
EMULATED = 2  # times that a small step in bf16 takes longer than in fp32 where products of bf16 are emulated, at least
AS_IT_COMES = ", as it comes"
PLAIN, NANOGPT, HF = "plain torch.nn, fp32", "nanoGPT, fp32", "HF GPT-2, fp32"
Spec = dict[str, Any]

# the goals, by shape
BEST_AGAINST_NANOGPT = (2.2, 1.8, 2.0, 2.7, 3.0)
FP32_AGAINST_HF = (1.8, 1.6, 1.5, 1.4, 1.35)
PACK_OF_SMALL, SMALL_PARAMETERS, PACK_AT_LEAST = 2.2, 10_000, 0.95
SHARE_OF_PEAK = {("fp32", 3): 0.55, ("fp32", 4): 0.72, ("bf16", 3): 0.15, ("bf16", 4): 0.22}


class Worker:
    """A process of contenders.py. allocator: whether it starts with the engine's allocator settings."""

    def __init__(self, allocator: bool, core: int) -> None:
        kept = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("contenders.py")), str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, "OMP_NUM_THREADS": "1", **(ALLOCATOR if allocator else {})},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def ask(self, shape: Shape, **request: Any) -> Any:
        """Its answer. Raises: RuntimeError if it died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"shape": asdict(shape), **request}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of the contenders ended with code {self.process.wait()}; see above")
        return json.loads(answer)


@dataclass
class Entry:
    """A contender at one shape. axes: its settings, several values each; chosen: those in the race; rates: by round."""

    name: str
    axes: dict[str, tuple[Any, ...]]
    chosen: Spec = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Tokens (or FLOPs) per second."""
        return median(self.rates)

    @property
    def setting(self) -> str:
        """As shown: K of the engine, what was chosen for a peer."""
        if "k" in self.chosen:
            return f"K = {self.chosen['k']}"
        words = [str(self.chosen[name]) for name in ("optimizer", "attention", "activation") if name in self.chosen]
        return ", ".join([*words, *(["our allocator"] if self.chosen["allocator"] else [])])


def over(a: Entry, b: Entry, factor: float = 1.0) -> float:
    """Median over rounds of a / b."""
    return median(factor * x / y for x, y in zip(a.rates, b.rates, strict=True))


class Bench:
    """The two processes and how long a turn of each contender is."""

    def __init__(self, given: argparse.Namespace, workers: dict[bool, Worker]) -> None:
        self.given = given
        self.workers = workers
        self.shares: list[float] = []  # of the core's time that a contender got
        self.skipped: list[str] = []
        self.precisions = PRECISIONS
        small = {kind: {"kind": "engine", "precision": kind, "k": 1, "allocator": True} for kind in PRECISIONS}
        rates = [self.measure(SHAPES[1], spec, 0.01) for spec in small.values()]
        if rates[0] is not None and rates[1] is not None and rates[0] > EMULATED * rates[1]:
            self.precisions = PRECISIONS[:1]
            self.skipped.append(
                f"bf16 is left out: this processor emulates it, {rates[0] / rates[1]:.0f} times slower than fp32."
            )

    def measure(self, shape: Shape, spec: Spec, seconds: float) -> float | None:
        """Work per second, None where the contender is not to be had."""
        told = {name: value for name, value in spec.items() if name != "allocator"}
        answer = self.workers[spec["allocator"]].ask(shape, spec=told, seconds=seconds)
        if isinstance(answer, str):
            self.skipped.append(f"{spec['kind']} is left out: {answer}")
            return None
        self.shares.append(answer["wall"] / answer["cpu"])
        return float(answer[self.given.clock])

    def choose(self, shape: Shape, entry: Entry) -> bool:
        """Try its settings axis by axis, and keep the best; whether there is the contender at all."""
        entry.chosen = {name: values[0] for name, values in entry.axes.items()}
        fastest = self.measure(shape, entry.chosen, self.given.seconds / 2)
        if fastest is None or self.given.quick:
            return fastest is not None
        for name, values in entry.axes.items():
            for value in values[1:]:
                tried = {**entry.chosen, name: value}
                rate = self.measure(shape, tried, self.given.seconds / 2)
                if rate is not None and rate > fastest:
                    fastest, entry.chosen = rate, tried
        return True

    def run(self, index: int, shape: Shape) -> dict[str, Entry]:
        """All contenders at one shape, by name."""
        entries = [
            entry for entry in entries_of(index, shape, self.given, self.precisions) if self.choose(shape, entry)
        ]
        for turn in range(self.given.rounds):
            for entry in entries if turn % 2 == 0 else entries[::-1]:
                rate = self.measure(shape, entry.chosen, self.given.seconds)
                assert rate is not None
                entry.rates.append(rate)
        return {entry.name: entry for entry in entries}


def entries_of(index: int, shape: Shape, given: argparse.Namespace, precisions: Sequence[str]) -> Iterator[Entry]:
    """Every contender with its settings."""
    for precision in precisions:
        common: dict[str, Any] = {"precision": (precision,), "allocator": (True,)}
        yield Entry(f"peak, {precision}", {"kind": ("peak",), **common})
        engine = {"kind": ("engine",), **common}
        yield Entry(f"one row, {precision}", {**engine, "k": (1,)})
        yield Entry(f"packed, {precision}", {**engine, "k": PACKS[index]})
        planned = planned_k(shape, precision, given.core)
        if planned > 1:
            yield Entry(f"packed as planned, {precision}", {**engine, "k": (planned,)})
    tuned: dict[str, Any] = {"precision": ("fp32",), "optimizer": ("fused", "foreach"), "allocator": (False, True)}
    as_it_comes: dict[str, Any] = {"precision": ("fp32",), "optimizer": ("as_is",), "allocator": (False,)}
    stock = {"kind": ("hf",), "attention": ("sdpa",), "activation": ("gelu_new",)}
    best = {"kind": ("hf",), "attention": ("sdpa", "eager"), "activation": ("gelu_new", "gelu_pytorch_tanh")}
    yield Entry(HF, {**best, **tuned})
    yield Entry(f"{HF}{AS_IT_COMES}", {**stock, **as_it_comes})
    peers: dict[str, Any] = {"plain torch.nn": {"kind": ("plain",)}}
    for name, path in (("nanoGPT", given.nanogpt), ("litgpt", given.litgpt)):
        if path is not None:
            peers[name] = {"kind": (name.lower(),), "path": (str(path),)}
    for name, peer in peers.items():
        yield Entry(f"{name}, fp32", {**peer, **tuned})
        if name != "litgpt":
            yield Entry(f"{name}, fp32{AS_IT_COMES}", {**peer, **as_it_comes})
            if "bf16" in precisions:
                yield Entry(f"{name}, bf16 autocast", {**peer, **tuned, "precision": ("bf16",)})
            if given.compile:
                yield Entry(f"{name}, fp32 compiled", {**peer, **tuned, "optimizer": ("fused",), "compile": (True,)})


def planned_k(shape: Shape, precision: str, core: int) -> int:
    """Models in one step as `scalectl sweep` would pack 16 seeds of this shape on one core."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "sweep.toml")
        file.write_text(shape.sweep(range(16), precision))
        scalectl = str(Path(sys.executable).with_name("scalectl"))
        command = [scalectl, "plan", str(file), "--json", "--results", folder]
        pinned = ["taskset", "--cpu-list", str(core)]
        planned = subprocess.run([*pinned, *command], capture_output=True, text=True, check=True).stdout
    return int(json.loads(planned)["groups"][0]["pack"])


@dataclass(frozen=True)
class Goal:
    """A ratio to reach."""

    name: str
    shape: str
    goal: float
    reached: float

    def row(self) -> dict[str, Any]:
        """As shown."""
        verdict = "met" if self.reached >= self.goal else "missed"
        return {
            "ratio of": self.name,
            "shape": self.shape,
            "goal": self.goal,
            "reached": round(self.reached, 3),
            "verdict": verdict,
        }


def goals(measured: Sequence[dict[str, Entry]], shapes: Sequence[Shape]) -> Iterator[Goal]:
    """Every ratio to reach that these shapes can tell."""
    for index, (shape, entries) in enumerate(zip(shapes, measured, strict=True)):
        names = {precision: f"one row, {precision}" for precision in PRECISIONS}
        solo = {precision: entries[name] for precision, name in names.items() if name in entries}
        best = max(solo, key=lambda precision: solo[precision].median)
        peer = NANOGPT if NANOGPT in entries else PLAIN
        for name in (peer, peer + AS_IT_COMES):
            ratio = over(solo[best], entries[name])
            yield Goal(f"one row, {best} / {name}", str(shape), BEST_AGAINST_NANOGPT[index], ratio)
    for index, (shape, entries) in enumerate(zip(shapes, measured, strict=True)):
        for name in (HF, HF + AS_IT_COMES):
            if name in entries:
                ratio = over(entries["one row, fp32"], entries[name])
                yield Goal(f"one row, fp32 / {name}", str(shape), FP32_AGAINST_HF[index], ratio)
    for shape, entries in zip(shapes, measured, strict=True):
        for precision in (precision for precision in PRECISIONS if f"packed, {precision}" in entries):
            solo_, name = entries[f"one row, {precision}"], f"packed, {precision}"
            if shape.ledger.params("total") <= SMALL_PARAMETERS:
                yield Goal(f"{name} / one row", str(shape), PACK_OF_SMALL, over(entries[name], solo_))
            planned = entries.get(f"packed as planned, {precision}")
            if planned is not None:
                yield Goal(f"{planned.name} / one row", str(shape), PACK_AT_LEAST, over(planned, solo_))
    for (precision, index), goal in SHARE_OF_PEAK.items():
        if index < len(measured) and f"peak, {precision}" in measured[index]:
            entries = measured[index]
            flops = shapes[index].ledger.flops_per_token()
            share = over(entries[f"one row, {precision}"], entries[f"peak, {precision}"], flops)
            yield Goal(f"one row, {precision} / peak", str(shapes[index]), goal, share)


def speeds(measured: Sequence[dict[str, Entry]], shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    """Contenders against shapes: tokens/s, and the ratio to the plain peer."""
    names = list(dict.fromkeys(name for entries in measured for name in entries))
    rows = []
    for name in names:
        row: dict[str, Any] = {"contender": name}
        for shape, entries in zip(shapes, measured, strict=True):
            head = f"{shape} ({count(shape.ledger.params('total'))})"
            if name not in entries:
                row[head] = "-"
            elif name.startswith("peak"):
                row[head] = si(entries[name].median, "FLOP/s")
            else:
                row[head] = f"{count(entries[name].median)} {over(entries[name], entries[PLAIN]):.2f}×"
        rows.append(row)
    return rows


def chosen(measured: Sequence[dict[str, Entry]], shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    """The settings that the trial chose."""
    names = dict.fromkeys(name for entries in measured for name in entries)
    rows = []
    for name in (name for name in names if not name.startswith(("peak", "one row"))):
        row: dict[str, Any] = {"contender": name}
        for shape, entries in zip(shapes, measured, strict=True):
            row[str(shape)] = entries[name].setting if name in entries else "-"
        rows.append(row)
    return rows


def profiles(bench: Bench, shapes: Sequence[Shape], seconds: float) -> Iterator[Section]:
    """Where a step goes, one table for each precision and pack, microseconds and shares."""
    for k, precision in ((k, precision) for k in (1, 8) for precision in bench.precisions):
        known = shapes if k == 1 else shapes[:1]
        request = {"precision": precision, "k": k, "seconds": seconds}
        found = [bench.workers[True].ask(shape, profile=request) for shape in known]
        first = ["step", "smallest step"]
        names = [*first, *dict.fromkeys(name for spent in found for name in spent if name not in first)]
        rows = []
        for name in names:
            row: dict[str, Any] = {"component": name}
            for shape, spent in zip(known, found, strict=True):
                total = sum(seconds for part, seconds in spent.items() if part not in first)
                share = "" if name in first else f" {spent.get(name, 0) / total:.0%}"
                row[f"{shape} [µs]"] = f"{spent.get(name, 0) * 1e6:.0f}{share}"
            rows.append(row)
        title = f"Where a step of {k} model{'s' * (k > 1)} in {precision} goes"
        data = [{"shape": str(shape), "seconds": spent} for shape, spent in zip(known, found, strict=True)]
        yield Section(f"profile {precision} K{k}", title, rows, data)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4, help="of a turn; at least one step")
    parser.add_argument("--shapes", type=int, choices=range(1, 6), default=5, help="only the smallest of the shapes")
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine that is not quiet")
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--litgpt", type=Path, help="a checkout of litgpt, its requirements installed")
    parser.add_argument("--compile", action="store_true", help="peers compiled as well (minutes)")
    parser.add_argument("--profile", action="store_true", help="where a step goes, by component")
    parser.add_argument("--quick", action="store_true", help="one shape in tiny rounds, no trials: does it still run?")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of engine.json and engine.md")
    given = parser.parse_args()
    for name in ("nanogpt", "litgpt"):
        folder = getattr(given, name)
        if folder is not None and not folder.is_dir():
            parser.error(f"--{name} {folder}: no such folder; clone it and give its path")
    if given.compile and not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        print("--compile is left out: no C++ compiler was found", file=sys.stderr)
        given.compile = False
    if given.quick:
        given.rounds, given.seconds, given.shapes = min(given.rounds, 2), 0.01, 1
    return given


def main() -> None:
    given = arguments()
    shapes = SHAPES[: given.shapes]
    begin = time.monotonic()
    with ExitStack() as stack:
        workers = {how: stack.enter_context(Worker(how, given.core)) for how in (True, False)}
        bench = Bench(given, workers)
        where = list(profiles(bench, shapes, given.seconds)) if given.profile else []
        measured = []
        for index, shape in enumerate(shapes):
            measured.append(bench.run(index, shape))
            print(f"{shape} done after {time.monotonic() - begin:.0f} s", file=sys.stderr)
    for line in dict.fromkeys(bench.skipped):
        print(line, file=sys.stderr)
    missing = [name for name in ("nanoGPT", "litgpt") if getattr(given, name.lower()) is None]
    share = sorted(bench.shares)
    notes = [
        f"One thread on core {given.core}, {given.rounds} interleaved rounds, {given.clock} clock; the contenders got"
        f" {median(share):.0%} of the core (a tenth of the turns {share[len(share) // 10]:.0%} or less).",
        *(f"{name} was not measured: give --{name.lower()} CHECKOUT." for name in missing),
        *dict.fromkeys(bench.skipped),
    ]
    raw = [
        {
            "shape": str(shape),
            "contender": entry.name,
            "setting": {name: value for name, value in entry.chosen.items() if name != "path"},
            "per_second": entry.median,
            "rounds": entry.rates,
        }
        for shape, entries in zip(shapes, measured, strict=True)
        for entry in entries.values()
    ]
    sections = [
        Section(
            "measured", "Tokens per second, and the ratio to plain torch.nn in fp32", speeds(measured, shapes), raw
        ),
        Section("settings", "Settings that a trial found best", chosen(measured, shapes)),
        Section("goals", "Ratios to reach", [goal.row() for goal in goals(measured, shapes)]),
        *where,
    ]
    record(Path(__file__).stem, sections, ["transformers"] if HF in measured[0] else [], given.results, " ".join(notes))


if __name__ == "__main__":
    main()

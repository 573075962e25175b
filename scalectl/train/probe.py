"""Speed and memory by K, measured in a process like a worker, pinned and with its allocator, that keeps no result.

    python -m scalectl.train.probe PARENT CPU|-   requests on stdin, one answer a request on stdout, as JSON lines

A request is a job (one run for each precision to compare, and the placement), the K to begin at and the memory at hand.
Rounds interleave all candidates, so that a machine whose speed drifts slows all of them alike; the median over rounds
counts. Around the first K the search goes on by halves and doubles while they are faster.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from scalectl.core.job import Job, Placement
from scalectl.core.run import Evaluation, RunConfig
from scalectl.train.loop import Trainer
from scalectl.train.worker import decode, die_with, messages, settle, spread

ROUNDS = 5
SLICE = 0.02  # seconds of one candidate in one round, one step at least; ours: 5 rounds of 4 candidates take .4 s
LEAST_ROUNDS = 3
PATIENCE = 3.0  # seconds of rounds after which the least number of them has to do, and the search goes no further
FASTER = 1.05  # of a doubled or halved K, for the search to go on from it; ours: above the noise of a median
MOST = 64  # models in a pack; ours: nothing gained from 32 on in any shape tried
HOPELESS = 2.0  # times slower; ours: no pack makes up for it, and bf16 is 10 times slower where a CPU emulates it
NEVER = 10**9  # steps


@dataclass(frozen=True)
class Seen:
    """One candidate: medians of a step [s] and of a held-out token [s], peak memory above the bare process [bytes]."""

    step: float
    evaluation: float
    memory: int | None


class Candidate:
    """K copies of a run with seeds of their own, at a learning rate too small to move them, and never evaluated."""

    def __init__(self, run: RunConfig, k: int, placement: Placement) -> None:
        still = replace(run.schedule, options=replace(run.schedule.options, warmup=10**18))
        quiet = replace(run, schedule=still, steps=NEVER, evaluation=Evaluation(NEVER))
        device = torch.device(placement.device)
        before = _begin_peak(device)
        # CPU time of one thread is what the work takes, however busy the machine is just now
        alone = device.type == "cpu" and placement.threads == 1
        self.clock = time.process_time if alone else time.perf_counter
        self.k = k
        self.times: list[float] = []
        self.evaluations: list[float] = []
        self.trainer = Trainer(Job(tuple(replace(quiet, seed=seed) for seed in range(k)), placement))
        self.held_out = self.trainer.exam.tokens_BW[: 4 * run.sequences]
        self.trainer.step()
        self.evaluate()
        begin = self.clock()
        self.trainer.step()
        self.first = self.clock() - begin  # seconds of one step
        self.calls = max(1, int(SLICE / self.first))
        after = _peak(device)
        self.memory = None if before is None or after is None else after - before

    def evaluate(self) -> None:
        """Evaluate a few batches."""
        self.trainer.engine.evaluate(self.held_out, range(self.k))

    def once(self) -> float:
        """One slice of a round. Returns: seconds."""
        before = self.trainer.tokens
        begin = self.clock()
        for _ in range(self.calls):  # an engine may take several steps in one
            self.trainer.step()
        middle = self.clock()
        self.evaluate()
        end = self.clock()
        steps = (self.trainer.tokens - before) / (self.k * self.trainer.seats[0].run.batch_tokens)
        self.times.append((middle - begin) / steps)
        self.evaluations.append((end - middle) / (self.held_out.shape[0] * (self.held_out.shape[1] - 1)))
        return end - begin

    def seen(self) -> Seen:
        """What its rounds say."""
        return Seen(median(self.times), median(self.evaluations), self.memory)


def measure(
    runs: Sequence[RunConfig],
    placement: Placement,
    starts: Sequence[int],
    *,
    most: int = MOST,
    memory: float = float("inf"),
) -> list[dict[int, Seen]]:
    """Measure packs of each of the runs, all candidates of all runs in interleaved rounds.

    A precision that is HOPELESS times slower than the first run's is seen alone and once: it is said to be slower.

    Args: starts: the K that shapes suggest, for each run; most: largest K, 1 for runs that cannot be packed;
    memory: that all candidates together may take [bytes].
    Returns: for each run what was seen, by K; 1 is always among them.
    """
    Candidate(runs[0], 1, placement)  # what the first step of a process takes is no candidate's
    found: dict[tuple[int, int], Candidate] = {}
    wanted = {(i, k) for i, start in enumerate(starts) for k in (1, start // 2, start, 2 * start) if 1 <= k <= most}
    slow: set[int] = set()
    taken = 0.0
    spent = 0.0
    while wanted:
        for i, k in sorted(wanted, key=lambda key: key[1]):
            alone = found.get((i, 1))
            each = (alone.memory or 0) if alone else 0
            if k == 1 or (i not in slow and taken + k * each <= memory):
                found[i, k] = Candidate(runs[i], k, placement)
                taken += found[i, k].memory or 0
            if i and k == 1 and found[i, 1].first > HOPELESS * found[0, 1].first:
                slow.add(i)
                spent += found[i, 1].once()
        spent += _rounds([held for key, held in found.items() if key in wanted and key[0] not in slow])
        if spent > PATIENCE * len(runs):
            break
        wanted = {(i, k) for i in range(len(runs)) for k in _next(_of(found, i), most)} - found.keys()
        wanted = {(i, k) for i, k in wanted if taken + k * (found[i, 1].memory or 0) <= memory}
    return [{k: held.seen() for k, held in sorted(_of(found, i).items())} for i in range(len(runs))]


def _of(found: Mapping[tuple[int, int], Candidate], i: int) -> dict[int, Candidate]:
    return {k: held for (j, k), held in found.items() if j == i}


def _rounds(order: Sequence[Candidate]) -> float:
    """Rounds of these candidates, in turn and back, so that a drift within a round cancels too.

    Returns: seconds.
    """
    spent, done = 0.0, 0
    while done < LEAST_ROUNDS or (done < ROUNDS and spent < PATIENCE):
        spent += sum(held.once() for held in (order if done % 2 else order[::-1]))
        done += 1
    return spent


def _next(held: Mapping[int, Candidate], most: int) -> list[int]:
    """Where to look next: beyond the edge of what was measured, if the edge is the best."""
    rates = {k: k / candidate.seen().step for k, candidate in held.items()}
    inner = sorted(k for k in rates if k > 1)
    best = max(rates, key=lambda k: rates[k])
    if not inner:
        return []
    if best == inner[-1] and 2 * best <= most and best > 1:
        below = inner[-2] if len(inner) > 1 else 1
        return [2 * best] if rates[best] >= FASTER * rates[below] else []
    return [best // 2] if best == inner[0] and best > 2 else []


def _begin_peak(device: torch.device) -> int | None:
    """Hand free memory back to the kernel and begin a new peak. Returns: memory in use [bytes], None if unknown."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return int(torch.cuda.memory_allocated(device))
    ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (proc(5))
    except OSError:
        return None
    return _status("VmRSS")


def _peak(device: torch.device) -> int | None:
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int | None:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one request: points for each run of its job, or why there are none."""
    job = decode(json.dumps(request["job"]))
    assert isinstance(job, Job), "nobody asks for the speed of a script"
    spread(job.placement)
    try:
        limits = {"most": request["most"] or MOST, "memory": request["memory"] or float("inf")}
        found = measure(job.runs, job.placement, request["starts"], **limits)
    except Exception as error:  # noqa: BLE001 a shape that cannot be measured is estimated, and fails where it trains
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"found": [{"points": [{"k": k, **asdict(seen)} for k, seen in held.items()]} for held in found]}


def main(parent: int, cpu: str) -> None:
    """Serve requests until stdin ends."""
    die_with(parent)
    say: Callable[[Mapping[str, Any]], None] = messages()
    settle(cpu)
    for line in iter(sys.stdin.readline, ""):
        say(answer(json.loads(line)))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

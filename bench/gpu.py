"""The engine on one GPU: packs in one graph against one by one, and the share of the measured peak that is reached.

    python bench/gpu.py [--rounds 7] [--seconds 0.5] [--dry]

All contenders of a shape are built first and measured in interleaved rounds; a ratio is the median over rounds. The
peak is that of a large product of matrices, measured in the same rounds. `--dry` goes through all of it on the CPU
with tiny shapes, where a graph is the same code called step by step: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record import RESULTS, Section, record
from shapes import Shape

from scalectl.core.job import Job, Placement
from scalectl.optim import OPTIMIZERS
from scalectl.train.device import set_rounding
from scalectl.train.loop import Trainer
from scalectl.train.provenance import device_name

GOALS = {"eager": 30.0, "graph": 8.0, "mfu": 0.45}  # packed + graph against eager and against a graph of one; MFU


@dataclass(frozen=True)
class Plan:
    """What is measured. packs: K to try; peak: a side of the matrices, by precision."""

    device: str
    small: tuple[Shape, ...]
    packs: tuple[int, ...]
    large: tuple[Shape, ...]
    compile: bool
    precisions: tuple[str, ...]
    peak: dict[str, int]


REAL = Plan(
    device="cuda:0",
    small=(Shape(1, 16, 4, 64, 4), Shape(2, 32, 4, 128, 16), Shape(4, 64, 4, 128, 16), Shape(4, 64, 4, 256, 16)),
    packs=(8, 32, 128, 512),
    large=(
        Shape(6, 256, 8, 512, 32),
        Shape(8, 512, 8, 1024, 32),
        Shape(12, 768, 12, 1024, 32),
        Shape(24, 1024, 16, 1024, 16),
        Shape(24, 1536, 16, 1024, 8),
        Shape(16, 2048, 16, 2048, 8),
    ),
    compile=True,
    precisions=("fp32", "tf32", "bf16", "fp16"),
    peak={"fp32": 4096, "bf16": 8192},
)
DRY = Plan(
    device="cpu",
    small=(Shape(1, 8, 2, 16, 2),),
    packs=(2, 4),
    large=(Shape(1, 32, 4, 32, 2),),
    compile=False,
    precisions=("fp32", "tf32", "bf16", "fp16"),
    peak={"fp32": 64, "bf16": 64},
)


def trainer(shape: Shape, precision: str, k: int, placement: Placement) -> Trainer:
    """K models in training, past their warm-up and recording."""
    held = Trainer(Job(tuple(shape.run(precision, seed) for seed in range(k)), placement))
    for _ in range(3):  # each as long as the engine cares to look ahead
        held.step()
    return held


def rate(held: Trainer, seconds: float) -> float:
    """Tokens per second over all models; the losses come back to the host within the time."""
    before, begin = held.tokens, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        held.step()
    return (held.tokens - before) / (time.perf_counter() - begin)


def peak_of(device: str, precision: str, side: int) -> Callable[[float], float]:
    """FLOP/s of a product of two square matrices, as a function of the seconds to measure for."""
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))

    def measured(seconds: float) -> float:
        set_rounding(precision)
        calls = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            for _ in range(10):
                c = a @ b
            float(c[0, 0])  # waits for all of them
            calls += 10
        return calls * 2 * side**3 / (time.perf_counter() - begin)

    return measured


def free() -> None:
    """Give memory back before the next shape."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def packing(plan: Plan, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Packs in one graph against one model eager and one model in a graph."""
    rows = []
    for shape in plan.small:
        for precision in ("fp32", "bf16"):
            contenders: dict[str, Trainer] = {
                "eager": trainer(shape, precision, 1, Placement(plan.device, graph=False)),
                "graph": trainer(shape, precision, 1, Placement(plan.device, graph=True)),
            }
            for k in plan.packs:
                try:
                    contenders[f"K = {k}"] = trainer(shape, precision, k, Placement(plan.device, graph=True))
                except torch.OutOfMemoryError:
                    break
            seen: dict[str, list[float]] = {name: [] for name in contenders}
            for i in range(rounds):
                for name in list(contenders)[:: 1 if i % 2 else -1]:
                    seen[name].append(rate(contenders[name], seconds))
            best = max((name for name in seen if name.startswith("K")), key=lambda name: median(seen[name]))
            ratios = {
                base: median(many / one for many, one in zip(seen[best], seen[base], strict=True))
                for base in ("eager", "graph")
            }
            rows.append(
                {
                    "model": str(shape),
                    "parameters": shape.ledger.params("total"),
                    "precision": precision,
                    "eager tokens/s": round(median(seen["eager"])),
                    "graph of one": round(median(seen["graph"])),
                    "best pack": best,
                    "packed tokens/s": round(median(seen[best])),
                    f"x eager (goal {GOALS['eager']:g})": round(ratios["eager"], 2),
                    f"x graph (goal {GOALS['graph']:g})": round(ratios["graph"], 2),
                    "tokens/s": {name: median(held) for name, held in seen.items()},
                }
            )
            del contenders
            free()
    return rows


def utilisation(plan: Plan, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Model FLOPs per second of one model against the measured peak, plain and compiled, and its memory."""
    peak = peak_of(plan.device, "bf16", plan.peak["bf16"])
    rows = []
    for shape in plan.large:
        free()
        before = 0
        if plan.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        contenders = {"plain": trainer(shape, "bf16", 1, Placement(plan.device, graph=True))}
        memory = torch.cuda.max_memory_allocated() - before if plan.device != "cpu" else None
        halved = contenders["plain"].engine.micro_batch
        if plan.compile:
            contenders["compiled"] = trainer(shape, "bf16", 1, Placement(plan.device, graph=True, compile=True))
        seen: dict[str, list[float]] = {name: [] for name in (*contenders, "peak")}
        for _ in range(rounds):
            for name, held in contenders.items():
                seen[name].append(rate(held, seconds) * shape.ledger.flops_per_token())
            seen["peak"].append(peak(seconds / 2))
        state = sum(OPTIMIZERS["adamw"].state(shape.ledger.tensors))
        predicted = shape.ledger.train_bytes(halved * shape.context, "bf16", state=state)
        shares = {
            name: median(one / top for one, top in zip(seen[name], seen["peak"], strict=True)) for name in contenders
        }
        rows.append(
            {
                "model": str(shape),
                "parameters": shape.ledger.params("total"),
                "micro-batch": halved,
                "tokens/s": round(median(seen["plain"]) / shape.ledger.flops_per_token()),
                "peak [TFLOP/s]": round(median(seen["peak"]) / 1e12, 3),
                "MFU plain": round(shares["plain"], 3),
                f"MFU compiled (goal {GOALS['mfu']:g}, d >= 768)": round(shares["compiled"], 3) if plan.compile else "",
                "memory [GB]": "" if memory is None else round(memory / 1e9, 3),
                "predicted [GB]": round(predicted / 1e9, 3),
            }
        )
        del contenders
    return rows


def precisions(plan: Plan, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Tokens per second by precision."""
    rows = []
    for shape in (plan.small[-1], plan.large[0]):
        contenders = {p: trainer(shape, p, 1, Placement(plan.device, graph=True)) for p in plan.precisions}
        seen: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, held in contenders.items():
                set_rounding(name)
                seen[name].append(rate(held, seconds))
        rows.append({"model": str(shape), **{f"{name} tokens/s": round(median(held)) for name, held in seen.items()}})
        del contenders
        free()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one contender in one round")
    parser.add_argument("--dry", action="store_true", help="to the end on the CPU, with tiny shapes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if not given.dry and not torch.cuda.is_available():
        parser.exit(2, "no CUDA device is at hand; --dry goes through all of it on the CPU\n")
    plan = DRY if given.dry else REAL
    rounds, seconds = (2, 0.02) if given.dry else (given.rounds, given.seconds)
    name = "dry" if given.dry else re.sub(r"[^a-z0-9]+", "-", device_name(plan.device).lower()).strip("-")
    sections = [
        Section(
            "packing", f"Packs in one graph, median of {rounds} interleaved rounds", packing(plan, rounds, seconds)
        ),
        Section("utilisation", "Share of the measured bf16 peak, one model", utilisation(plan, rounds, seconds)),
        Section("precision", "One model in a graph, by precision", precisions(plan, rounds, seconds)),
    ]
    record(f"gpu-{name}", sections, folder=given.out, notes=f"{device_name(plan.device)}, torch {torch.__version__}")


if __name__ == "__main__":
    main()

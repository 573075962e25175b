"""Runs with a known law: loss 2 + 20 N^-0.2 and three evaluations each."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from scalectl.core.job import State
from scalectl.core.rows import Row
from scalectl.core.run import Member, RunConfig, Task
from scalectl.store.layout import open_store
from scalectl.store.writer import write_run


@dataclass(frozen=True)
class Width:
    d_model: int
    context: int = 32


@dataclass(frozen=True)
class Rate:
    lr: float = 0.01


@dataclass(frozen=True)
class Source:
    source: str = "language"


@dataclass(frozen=True)
class Warmup:
    warmup: int = 10


def a_run(d_model=16, seed=0, lr=0.01, fingerprint="f00d", held_out_tokens=4096, steps=60, sequences=8):
    return RunConfig(
        model=Member("decoder", 1, Width(d_model)),
        task=Task("text", 1, Source(), fingerprint, held_out_tokens),
        optim=Member("adamw", 1, Rate(lr)),
        schedule=Member("wsd", 1, Warmup()),
        steps=steps,
        sequences=sequences,
        seed=seed,
        precision="fp32",
    )


def parameters(run):
    return 24 * run.model.options.d_model**2


def loss_of(run):
    return 2 + 20 * parameters(run) ** -0.2 + 0.001 * run.seed


def rows_of(run, steps=None):
    rows = []
    for step in steps or (run.steps // 3, 2 * run.steps // 3, run.steps):
        tokens = step * run.batch_tokens
        flops, seconds = 7.0 * parameters(run) * tokens, 0.01 * step
        value = loss_of(run) + 0.5 * (run.steps - step) / run.steps
        for split, metric, number in (
            ("train", "loss", value + 0.01),
            ("held-out", "loss", value),
            ("held-out", "loss_se", 0.004),
            ("held-out", "bits_per_byte", value / 0.6931471805599453),
        ):
            rows.append(Row(run.run_id, step, tokens, flops, split, metric, number, seconds))
    return rows


def columns_of_run(run):
    N = parameters(run)
    return {
        "N_total": 2 * N,
        "N_non_embedding": N,
        "N_matmul": N + 100,
        "unique_tokens": 50_000,
        "epochs": run.tokens / 50_000,
        "C_6nd": 6.0 * N * run.tokens,
        "pack": 1,
        "device": "cpu",
    }


PROVENANCE = {"version": "0.1.0", "host": "here", "source_digest": "abc"}


def stored(store, run, state=State.DONE, message="", rows=None):
    return write_run(
        store, run, rows_of(run) if rows is None else rows, state, PROVENANCE, columns_of_run(run), message
    )


@pytest.fixture
def store(tmp_path):
    made = open_store(tmp_path / "results")
    made.prepare()
    return made


@pytest.fixture
def lab():
    """The builders above, for tests: conftest modules are not imported by name."""
    import types

    return types.SimpleNamespace(
        run=a_run,
        rows=rows_of,
        loss=loss_of,
        N=parameters,
        columns=columns_of_run,
        provenance=PROVENANCE,
        stored=stored,
    )

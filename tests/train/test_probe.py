"""The probe: what it measures is real, and its search ends at the fastest pack."""

import json
import subprocess
import sys
from dataclasses import replace
from math import inf

import pytest
import torch

from scalectl.core.job import Job, Placement
from scalectl.sweep.speeds import measured_from
from scalectl.train import probe
from scalectl.train.worker import encode


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(probe, "SLICE", 0.0)
    monkeypatch.setattr(probe, "LEAST_ROUNDS", 1)
    monkeypatch.setattr(probe, "PATIENCE", 0.0)
    monkeypatch.setattr(probe, "HOPELESS", inf)


def test_a_probe_takes_steps_of_k_models_that_learn_nothing(make_run, quick):
    candidate = probe.Candidate(make_run(lr=1e6), 3, Placement())
    before = candidate.trainer.engine.population.theta.clone()
    for _ in range(10):
        candidate.once()
    assert len(candidate.trainer.seats) == 3  # none has diverged, at any rate
    assert torch.allclose(candidate.trainer.engine.population.theta, before, rtol=0, atol=1e-9)
    assert len({seat.run.seed for seat in candidate.trainer.seats}) == 3


def test_every_run_is_measured_alone_and_around_the_k_it_begins_at(make_run, quick):
    runs = [make_run(), make_run(precision="bf16")]
    first, second = probe.measure(runs, Placement(), [4, 1])
    assert {1, 2, 4, 8} <= set(first)
    assert {1, 2} <= set(second)
    assert all(seen.step > 0 and seen.evaluation > 0 for seen in (*first.values(), *second.values()))


def test_a_precision_that_is_hopelessly_slow_is_seen_alone_and_once(make_run, quick, monkeypatch):
    monkeypatch.setattr(probe, "HOPELESS", 0.0)
    taken = []
    once = probe.Candidate.once
    monkeypatch.setattr(
        probe.Candidate,
        "once",
        lambda self: (taken.append((self.k, self.trainer.seats[0].run.precision)), once(self))[1],
    )
    first, second = probe.measure([make_run(), make_run(precision="bf16")], Placement(), [2, 2])
    assert {1, 2} <= set(first)
    assert list(second) == [1]
    assert taken.count((1, "bf16")) == 1


def test_runs_that_cannot_be_packed_are_measured_alone(make_run, quick):
    (found,) = probe.measure([make_run()], Placement(), [1], most=1)
    assert list(found) == [1]


def test_packs_that_do_not_fit_into_memory_are_not_tried(make_run, quick):
    (found,) = probe.measure([make_run()], Placement(), [4], memory=1)
    assert list(found) == [1]


class Timed:
    def __init__(self, step):
        self.step = step

    def seen(self):
        return probe.Seen(self.step, 0.0, None)


def held(**step_by_k):
    return {int(k[1:]): Timed(ms / 1e3) for k, ms in step_by_k.items()}


def test_the_search_goes_on_beyond_an_edge_that_is_the_best_and_ends_inside():
    assert probe._next(held(k1=10, k4=20, k8=30, k16=40), 64) == [32]
    assert probe._next(held(k1=10, k4=20, k8=30, k16=40), 16) == []
    assert probe._next(held(k1=10, k4=20, k8=30, k16=59), 64) == []  # hardly faster than 8
    assert probe._next(held(k1=10, k4=20, k8=60, k16=140), 64) == [2]
    assert probe._next(held(k1=10, k2=20.5), 64) == []
    assert probe._next(held(k1=10), 64) == []
    assert probe._next(held(k1=10, k2=9), 64) == [4]


def test_memory_grows_with_the_pack_and_is_above_the_bare_process(make_run, quick):
    run = make_run(d_model=64, context=64, sequences=16)
    (found,) = probe.measure([run], Placement(), [8], most=8)
    numbers = {k: seen.memory for k, seen in found.items()}
    assert None not in numbers.values()
    assert numbers[8] > 1.2 * numbers[1] > 0  # rows of this size go through the model in turns; 1.7 to 1.9 measured


def test_the_process_answers_one_line_a_request_and_an_error_where_it_cannot_measure(make_run):
    gone = replace(make_run(), task=replace(make_run().task, fingerprint="sha256:gone"))
    requests = [
        {"job": json.loads(encode(Job((run,), Placement()))), "starts": [1], "most": 2, "memory": None}
        for run in (make_run(), gone)
    ]
    done = subprocess.run(
        [sys.executable, "-c", STARTER], input="\n".join(map(json.dumps, requests)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    good, bad = map(json.loads, done.stdout.splitlines())
    (content,) = good["found"]
    assert [point.k for point in measured_from(content).points] == [1, 2]
    assert "changed since the plan" in bad["error"]


STARTER = """
import os, subprocess, sys
command = [sys.executable, "-m", "scalectl.train.probe", str(os.getpid()), "-"]
sys.exit(subprocess.run(command, stdin=sys.stdin).returncode)
"""

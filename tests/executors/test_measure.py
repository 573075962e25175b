"""Probes in real processes, several shapes on the slots of this machine."""

from dataclasses import replace

import psutil
from support import SWEEP

from scalectl.core.job import Job, Placement
from scalectl.executors.local import slots
from scalectl.executors.measure import Request, measure
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import parse_sweep
from scalectl.sweep.speeds import Measured


def run_of(seed=0, fingerprint=None):
    run = expand(parse_sweep(SWEEP)).runs[0].run
    return replace(run, seed=seed, task=replace(run.task, fingerprint=fingerprint or run.task.fingerprint))


def job_of(*runs):
    return Job(runs, Placement())


def probes():
    return [child for child in psutil.Process().children() if "scalectl.train.probe" in " ".join(child.cmdline())]


def test_every_shape_is_answered_with_a_measurement_for_each_run_or_with_the_reason_why_not(tmp_path):
    good = Request(job_of(run_of(), replace(run_of(), precision="bf16")), start=2, most=4)
    bad = Request(job_of(run_of(fingerprint="sha256:gone")), start=1)
    found = dict(measure([good, bad], slots("cpu", 2)))
    assert all(isinstance(held, Measured) for held in found[good])
    assert len(found[good]) == 2
    ks = [point.k for point in found[good][0].points]
    assert ks[:2] == [1, 2]
    assert ks[-1] <= 4
    assert all(point.step > 0 and point.memory > 0 for point in found[good][0].points)
    assert "changed since the plan" in found[bad]
    assert not probes()


def test_a_probe_that_dies_answers_for_the_rest_and_nothing_is_left_running(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    requests = [Request(job_of(run_of(seed)), start=1) for seed in range(2)]
    assert [(asked, "ended" in said) for asked, said in measure(requests, slots("cpu", 1))] == [
        (requests[0], True),
        (requests[1], True),
    ]
    assert not probes()


def test_leaving_early_ends_the_probes():
    for _ in measure([Request(job_of(run_of(seed)), start=1, most=2) for seed in range(2)], slots("cpu", 1)):
        assert probes()
        break
    assert not probes()

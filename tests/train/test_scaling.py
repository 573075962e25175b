"""The loss scale of fp16: torch's own rules, row by row."""

import dataclasses

import pytest
import torch
from timeless import timeless

from scalectl.core.job import Job, Placement, State
from scalectl.core.rows import Row
from scalectl.train import scaling
from scalectl.train.loop import Ended, Progress, Trainer, fresh, train
from scalectl.train.scaling import SCALE, SKIPPED, STREAK


def with_scale(run, scale):
    """The run at step 0 with another loss scale."""
    row = fresh(run).row
    return Progress(0, dataclasses.replace(row, scaling=torch.tensor([scale, 0.0, 0.0], dtype=torch.float64)))


def test_scales_follow_torch_grad_scaler_step_by_step_each_row_with_its_own_overflows(monkeypatch):
    monkeypatch.setattr(scaling, "GROWTH_INTERVAL", 4)
    generator = torch.Generator().manual_seed(0)
    finite = torch.rand(60, 2, generator=generator) > torch.tensor([0.1, 0.6])
    finite[40:, 0] = True
    ours = torch.stack([scaling.fresh("fp16")] * 2)
    theirs = [torch.amp.GradScaler("cpu", growth_interval=4) for _ in range(2)]
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    for step in range(60):
        for k in range(2):
            optimizer = torch.optim.SGD([weights[k]], lr=0.0)
            weights[k].grad = torch.tensor([1.0 if finite[step, k] else torch.inf])
            theirs[k].scale(torch.ones(1))
            theirs[k].step(optimizer)
            theirs[k].update()
        scaling.advance(ours, finite[step, :, None])
        assert ours[:, SCALE].tolist() == [scaler.get_scale() for scaler in theirs]
        assert ours[:, STREAK].tolist() == [scaler._get_growth_tracker() for scaler in theirs]
    assert ours[:, SKIPPED].tolist() == (~finite).sum(0).tolist()
    assert ours[0, SCALE] > scaling.INITIAL > ours[1, SCALE]


def test_a_row_that_overflows_skips_its_step_and_its_company_does_not_notice(make_run):
    runs = [make_run(seed=seed, precision="fp16") for seed in (1, 2)]
    begin = {runs[1].run_id: with_scale(runs[1], 2.0**30)}
    trainer = Trainer(Job(tuple(runs), Placement()), begin)
    before = trainer.progress(runs[1].run_id).row
    events = trainer.step()
    after = trainer.progress(runs[1].run_id)
    assert after.step == 1
    assert torch.equal(after.row.theta, before.theta)
    assert all(torch.equal(a, b) for a, b in zip(after.row.slots, before.slots, strict=True))
    assert after.row.scaling.tolist() == [2.0**29, 0.0, 1.0]
    while trainer.running:
        events += trainer.step()
    for run in runs:
        solo = [*map(timeless, train(Job((run,), Placement()), begin))]
        assert [timeless(event) for event in events if event.run_id == run.run_id] == solo


def test_a_skipped_step_does_not_advance_the_optimisers_count(make_run):
    run = make_run(precision="fp16", steps=40, every=100)
    late = Trainer(Job((run,), Placement()), {run.run_id: with_scale(run, 2.0**30)})
    while not late.progress(run.run_id).row.slots[0].any():
        late.step()
    skipped = int(late.progress(run.run_id).row.scaling[SKIPPED])
    assert skipped >= 1
    moved = late.progress(run.run_id).row.theta - fresh(run).row.theta
    # Adam's first step moves every number by the rate whatever its gradient; with a larger count it would not
    rate = run.optim.options.lr * late.seats[0].turn(-1).factor
    assert moved[:512].abs().median().item() == pytest.approx(rate, rel=0.02)


def test_a_resumed_run_keeps_its_scale_bit_for_bit(make_run, monkeypatch):
    monkeypatch.setattr(scaling, "GROWTH_INTERVAL", 3)
    run = make_run(precision="fp16", steps=14)
    begin = {run.run_id: with_scale(run, 2.0**28)}
    whole = [*map(timeless, train(Job((run,), Placement()), begin))]
    first = Trainer(Job((run,), Placement()), begin)
    events = [event for _ in range(6) for event in first.step()]
    kept = first.progress(run.run_id)
    assert kept.row.scaling[SCALE] != scaling.INITIAL
    rest = train(Job((run,), Placement()), {run.run_id: kept})
    assert [*map(timeless, [*events, *rest])] == whole


def test_a_row_that_overflows_at_every_scale_has_diverged(make_run, monkeypatch):
    monkeypatch.setattr(scaling, "SMALLEST", 2.0**40)  # any scale is too small
    run = make_run(precision="fp16")
    events = list(train(Job((run,), Placement()), {run.run_id: with_scale(run, 2.0**40)}))
    assert [event.state for event in events if isinstance(event, Ended)] == [State.DIVERGED]
    assert "diverged at step 1 (loss the start -> nan)" in events[-1].message


def test_fp16_learns_as_fp32_does(make_run):
    last = {}
    for precision in ("fp32", "fp16"):
        run = make_run(precision=precision, d_model=32, steps=60, sequences=16, lr=1e-2, every=60)
        rows = [event for event in train(Job((run,), Placement())) if isinstance(event, Row)]
        last[precision] = next(row.value for row in rows if (row.split, row.metric) == ("held-out", "loss"))
    assert last["fp16"] == pytest.approx(last["fp32"], rel=5e-3)

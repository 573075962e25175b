"""AdamW against torch's own, and the shapes of the schedules."""

from dataclasses import replace

import pytest
import torch

from scalectl.optim import AdamWOptions, Columns, adamw
from scalectl.optim.schedules import SCHEDULES, Options


@pytest.mark.parametrize("rates", [None, torch.ones(1, 10)], ids=["fused", "by columns"])
def test_adamw_equals_torch_step_by_step_each_row_with_its_own_numbers(rates):
    rows = [AdamWOptions(0.01), AdamWOptions(0.003, weight_decay=0.5, beta1=0.8, beta2=0.99, eps=1e-6, clip=0.7)]
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(2, 10, generator=generator, dtype=torch.float64)
    decayed = 6
    theirs = []
    for row, o in zip(theta, rows, strict=True):
        parts = [row[:decayed].clone().requires_grad_(), row[decayed:].clone().requires_grad_()]
        groups = [{"params": [parts[0]], "weight_decay": o.weight_decay}, {"params": [parts[1]], "weight_decay": 0.0}]
        theirs.append((parts, torch.optim.AdamW(groups, lr=o.lr, betas=(o.beta1, o.beta2), eps=o.eps)))
    slots = (torch.zeros_like(theta), torch.zeros_like(theta))
    columns = adamw.Rows.of(rows, torch.device("cpu"))
    for step in range(1, 30):
        grad = torch.randn(2, 10, generator=generator, dtype=torch.float64)
        for (parts, optimizer), g, o in zip(theirs, grad, rows, strict=True):
            parts[0].grad, parts[1].grad = g[:decayed].clone(), g[decayed:].clone()
            torch.nn.utils.clip_grad_norm_(parts, o.clip)
            optimizer.step()
        factor, taken = torch.ones(2, 1, dtype=torch.float64), torch.full((2, 1), float(step), dtype=torch.float64)
        norms = adamw.step(theta, grad.clone(), slots, columns, factor, taken, Columns(decayed, rates=rates))
        assert torch.allclose(norms[:, 0], grad.norm(dim=1))
        for row, (parts, _) in zip(theta, theirs, strict=True):
            assert (row - torch.cat([part.detach() for part in parts])).abs().max() < 1e-12


def test_no_clipping_at_zero():
    columns = adamw.Rows.of([AdamWOptions(0.1, clip=0.0)], torch.device("cpu"))
    theta, grad = torch.zeros(1, 3), torch.full((1, 3), 100.0)
    ones = torch.ones(1, 1, dtype=torch.float64)
    adamw.step(theta, grad, (torch.zeros(1, 3), torch.zeros(1, 3)), columns, ones, ones, Columns(0))
    assert torch.equal(grad, torch.full((1, 3), 100.0))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=lambda schedule: schedule.name)
def test_a_schedule_warms_up_stays_within_one_and_decays_if_it_says_so(schedule):
    options, steps = Options(warmup=10, decay=20, final=0.0), 100
    factors = [schedule.factor(options, step, steps) for step in range(steps)]
    assert 0 < factors[0] < 0.2
    assert max(factors) == pytest.approx(1.0, abs=1e-3)
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[:10] == sorted(factors[:10])
    assert (factors[-1] < 0.1) is (schedule.name != "constant")


def test_wsd_is_flat_until_its_cooldown_and_falls_like_one_minus_sqrt():
    options = Options(warmup=5, decay=24)
    factors = [SCHEDULES["wsd"].factor(options, step, 100) for step in range(100)]
    assert set(factors[5:76]) == {1.0}
    assert factors[76] == pytest.approx(1 - (1 / 25) ** 0.5)
    assert factors[99] == pytest.approx(1 - (24 / 25) ** 0.5)


def test_two_horizons_of_wsd_share_their_trunk():
    short = [SCHEDULES["wsd"].factor(Options(5, 10), step, 50) for step in range(40)]
    long = [SCHEDULES["wsd"].factor(Options(5, 20), step, 100) for step in range(40)]
    assert short == long


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=lambda schedule: schedule.name)
@pytest.mark.parametrize(
    "options", [Options(10, 20, 0.3), Options(10, 0, 0.3), Options(0, 20, 0.0), Options(0, 0, 1.0)]
)
def test_the_normal_form_of_a_schedule_has_the_same_factors_and_forgets_what_is_not_read(schedule, options):
    normal = schedule.normal(options)
    assert all(schedule.factor(normal, step, 100) == schedule.factor(options, step, 100) for step in range(100))
    assert schedule.normal(normal) == normal
    for name, other in (("decay", 5), ("final", 0.5)):
        moved = replace(normal, **{name: other})
        same = all(schedule.factor(moved, step, 100) == schedule.factor(normal, step, 100) for step in range(100))
        assert same is (schedule.normal(moved) == normal)


@pytest.mark.parametrize("name", ["wsd", "cosine", "linear"])
def test_a_fall_would_reach_its_end_one_step_after_the_last(name):
    options = Options(warmup=10, decay=20, final=0.25)
    assert SCHEDULES[name].factor(options, 100, 100) == pytest.approx(0.25)
    assert SCHEDULES[name].factor(options, 99, 100) > 0.25

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from scalectl.core.job import State
from scalectl.fit.summary import Holdout, Summary
from scalectl.report.advice import RULES, Facts, Jump, advise, limit_of
from scalectl.report.build import build_report
from scalectl.report.views import GridAxis, RunView, SweepView

Summaries = Callable[[], tuple[Summary, Summary]]
SIZES = (2_000, 7_000, 26_000, 101_000, 400_000)


@pytest.fixture
def healthy(summaries: Summaries) -> Facts:
    """Five sizes, three seeds, a law that holds: nothing to advise."""
    power = replace(summaries()[0], misfit=0.003, seed_noise=None, holdout=(Holdout("largest size", 3, 0.005),))
    return Facts("ladder", {State.DONE: 15}, SIZES, 3, (power,), power)


def seen(facts: Facts) -> str:
    return "\n".join(f"{advice.seen}: {advice.cause} -> {advice.remedy}" for advice in advise(facts))


CASES: dict[str, tuple[Callable[[Facts], Facts], str]] = {
    "failed": (
        lambda f: replace(f, counts={State.DONE: 14, State.FAILED: 1}, failed=("4f1c9e",)),
        "scalectl logs 4f1c9e, then scalectl sweep ladder --retry failed",
    ),
    "out of memory": (lambda f: replace(f, counts={State.DONE: 14, State.OOM: 1}), "micro_batch"),
    "unfinished": (
        lambda f: replace(f, counts={State.DONE: 9, State.PENDING: 4, State.LOST: 2}),
        "6 runs not finished",
    ),
    "diverged": (lambda f: replace(f, counts={State.DONE: 13, State.DIVERGED: 2}), "lower train.lr"),
    "a script diverged": (
        lambda f: replace(f, counts={State.DONE: 13, State.DIVERGED: 2}, script=True),
        "lower the learning rate of the largest models in params",
    ),
    "a script's loss rises": (
        lambda f: replace(f, rising=(("width=64", "width=128"),), script=True),
        "--best-over params.lr",
    ),
    "rising": (lambda f: replace(f, rising=(("d_model=64", "d_model=128"),)), "d_model=64 to d_model=128"),
    "few sizes": (lambda f: replace(f, sizes=SIZES[:2]), "2 sizes finished"),
    "short span": (lambda f: replace(f, sizes=(2_000, 4_000, 8_000)), "the sizes span a factor 4"),
    "no fit": (lambda f: replace(f, fits=(), chosen=None), "scalectl fit ladder says what it needs"),
    "nothing identified": (lambda f: replace(f, chosen=None), "the law is not identified"),
    "chosen, but not identified": (
        lambda f: replace(f, chosen=_with(f, identified={"A": True, "α": False})),
        "the law is not identified",
    ),
    "optimum": (lambda f: replace(f, chosen=_with(f, starts=64, starts_at_optimum=3)), "3 of 64 starts"),
    "outliers": (lambda f: replace(f, chosen=_with(f, outliers=("4f1c9e", "b03a7d"))), "4f1c9e, b03a7d"),
    "one seed": (lambda f: replace(f, seeds=1), "seed = { grid = [0, 1, 2] }"),
    "law limits": (lambda f: replace(f, chosen=_with(f, misfit=0.03, seed_noise=0.003)), "more seeds will not narrow"),
    "noise limits": (lambda f: replace(f, chosen=_with(f, seed_noise=0.03, misfit=0.02)), "add seeds"),
    "held out": (
        lambda f: replace(f, chosen=_with(f, holdout=(Holdout("largest N", 3, 0.05),))),
        "held out (largest N), power is 5 % off",
    ),
    "a jump at the edge": (lambda f: replace(f, jumps=(Jump("add", 5, edge=True),)), "add two larger sizes"),
    "a jump of few seeds": (
        lambda f: replace(f, jumps=(Jump("add", 1, edge=False),)),
        "1 seed at the threshold of add",
    ),
}


def _with(facts: Facts, **changes: object) -> Summary:
    assert facts.chosen is not None
    return replace(facts.chosen, **changes)  # type: ignore[arg-type]


def test_a_sweep_in_good_order_is_told_nothing(healthy: Facts) -> None:
    assert advise(healthy) == ()


@pytest.mark.parametrize("name", CASES)
def test_what_was_seen_is_answered(healthy: Facts, name: str) -> None:
    change, answer = CASES[name]
    assert answer not in seen(healthy)
    text = seen(change(healthy))
    assert answer in text


def test_every_rule_is_reached_by_a_case(healthy: Facts) -> None:
    fired = {rule for change, _ in CASES.values() for rule in RULES if rule(change(healthy)) is not None}
    assert fired == set(RULES)


def test_advice_on_sizes_waits_until_the_sweep_is_over(healthy: Facts) -> None:
    early = replace(healthy, sizes=SIZES[:1], fits=(), chosen=None, counts={State.DONE: 1, State.PENDING: 14})
    assert seen(early).count("->") == 1


@pytest.mark.parametrize(
    ("misfit", "noise", "seeds", "limit"),
    [
        (0.030, 0.004, 3, "law"),
        (0.004, 0.004, 3, "noise"),
        (0.004, 0.004, 9, "law"),
        (None, 0.004, 3, ""),
        (0.03, None, 1, ""),
    ],
)
def test_noise_counts_as_it_reaches_the_mean_of_a_size(
    summaries: Summaries, misfit: float | None, noise: float | None, seeds: int, limit: str
) -> None:
    # 0.004 / sqrt(9) is a third of the misfit, 0.004 / sqrt(3) is not half of it
    assert limit_of(replace(summaries()[0], misfit=misfit, seed_noise=noise), seeds) == limit


def _runs(losses: dict[tuple[int, float], tuple[float, ...]]) -> tuple[RunView, ...]:
    return tuple(
        RunView(
            run_id=f"{width:08x}{i:08x}",
            cell={"model.d_model": width, "train.lr": rate, "train.seed": i},
            N=width**2,
            D=1000,
            C=6.0 * width**2 * 1000,
            state=State.DONE,
            loss=loss,
            loss_se=0.01,
        )
        for (width, rate), values in losses.items()
        for i, loss in enumerate(values)
    )


def test_a_loss_that_rises_with_size_is_noticed_within_each_learning_rate_and_beyond_the_noise() -> None:
    axes = (GridAxis("model.d_model", (8, 16)), GridAxis("train.lr", (0.1, 0.2)), GridAxis("train.seed", (0, 1)))
    losses = {
        (8, 0.1): (2.00, 2.02),
        (16, 0.1): (1.90, 1.92),
        (8, 0.2): (2.00, 2.02),
        (16, 0.2): (2.50, 2.52),
    }
    report = build_report(SweepView("x", "", axes, _runs(losses)))
    rising = [advice.seen for advice in report.advice if "rises" in advice.seen]
    assert rising == ["the loss rises with N from d_model=8 lr=0.2 to d_model=16 lr=0.2"]
    losses[16, 0.2] = (1.95, 2.10)
    noisy = build_report(SweepView("x", "", axes, _runs(losses)))
    assert not [advice for advice in noisy.advice if "rises" in advice.seen]


def test_means_and_errors_are_over_finished_runs_alone(ladder: SweepView) -> None:
    report = build_report(ladder)
    largest = report.groups[-1]
    losses = [run.loss for run in ladder.runs if run.N == largest.N and run.loss is not None]
    assert (largest.planned, largest.n, largest.over) == (3, 2, "seeds")
    assert largest.loss == pytest.approx(np.mean(losses))
    assert largest.error == pytest.approx(np.std(losses, ddof=1) / np.sqrt(2))
    assert [ending.cell for ending in report.diverged] == [{"d_model": 128, "seed": 1}]
    assert report.seeds == 2


def test_one_seed_has_the_error_of_its_held_out_set(ladder: SweepView) -> None:
    report = build_report(replace(ladder, runs=tuple(run for run in ladder.runs if run.cell["train.seed"] == 0)))
    assert {(group.n, group.over, group.error) for group in report.groups} == {(1, "sequences", 0.011)}

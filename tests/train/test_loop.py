"""A run does not depend on its company, its interruptions or its micro-batches."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from support import pairwise
from timeless import by_run, timeless

from scalectl.core.job import Job, Placement, State
from scalectl.core.rows import Row
from scalectl.models import MODELS
from scalectl.tasks import TASKS
from scalectl.train import engine
from scalectl.train import population as pop
from scalectl.train.loop import Ended, Trainer, fresh, train

PRECISIONS = ["fp32", "bf16", "fp16"]
VARIANTS = [
    {},
    {"position": "rotary", "norm": "rms", "bias": False},
    {"position": "sinusoidal", "tie": False},
    {"d_model": 64},
    {"norm_first": False, "activation": "gelu"},
    {"activation": "relu", "window": 7, "position": "rotary"},
    {"sequences": 1, "context": 32, "d_model": 8, "position": "rotary"},
    {"family": "encoder-decoder", "d_model": 32, "sequences": 32},
    {"family": "vit", "d_model": 32, "sequences": 32},
    {"family": "encoder-decoder", "sequences": 5, "norm_first": False, "position": "sinusoidal"},
    {"family": "vit", "sequences": 5, "patch": 2, "d_ff": 24},
]


@pytest.mark.parametrize(
    ("k", "variant", "precision"),
    pairwise([2, 8, 32], VARIANTS, PRECISIONS, slow=lambda k, variant, precision: k == 32),
    ids=str,
)
def test_a_pack_equals_its_solos_bit_for_bit(make_run, variant, precision, k):
    runs = [
        make_run(seed=seed, lr=1e-3 * (1 + seed), weight_decay=0.1 * seed, clip=1.0 - 0.1 * seed, precision=precision,
                 steps=8 + seed % 3, **variant)
        for seed in range(k)
    ]  # fmt: skip
    packed = by_run(train(Job(tuple(runs), Placement())))
    for run in runs:
        assert packed[run.run_id] == by_run(train(Job((run,), Placement())))[run.run_id]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_pack_of_32_equals_its_solos_bit_for_bit(make_run, precision):
    runs = [make_run(seed=seed, lr=1e-3 * (1 + seed % 5), precision=precision) for seed in range(32)]
    packed = by_run(train(Job(tuple(runs), Placement())))
    for run in runs[::5]:
        assert packed[run.run_id] == by_run(train(Job((run,), Placement())))[run.run_id]


@pytest.mark.parametrize(
    ("shape", "micro_batch"),
    [
        ({"d_model": 24, "context": 31, "sequences": 32}, None),  # 496 held-out tokens: 16 sequences, no whole of 32
        ({"d_model": 24, "context": 31, "sequences": 32}, 3),
        ({"d_model": 40, "context": 31, "sequences": 4}, None),  # every product of activations is a whole, T x T is not
        ({"d_model": 16, "context": 33, "sequences": 8, "position": "rotary"}, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pack_whose_tokens_are_no_whole_number_of_vectors_equals_its_solos_bit_for_bit(
    make_run, shape, micro_batch, precision
):
    runs = [make_run(seed=seed, steps=6, decay=2, precision=precision, n_head=2, **shape) for seed in range(3)]
    placement = Placement(micro_batch=micro_batch)
    packed = by_run(train(Job(tuple(runs), placement)))
    for run in runs:
        assert packed[run.run_id] == by_run(train(Job((run,), placement)))[run.run_id]


def test_rows_that_go_through_the_model_in_turns_change_nothing(make_run, monkeypatch):
    runs = tuple(make_run(seed=seed) for seed in range(5))
    together = by_run(train(Job(runs, Placement())))
    monkeypatch.setattr(
        engine, "ROWS_TOGETHER", 2 * 4 * 24 * MODELS["decoder"].ledger(runs[0].model.options).saved_activations
    )
    trainer = Trainer(Job(runs, Placement()))
    assert [rows for rows, _ in trainer.engine.parts(4)] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert by_run(train(Job(runs, Placement()))) == together


def test_a_row_that_becomes_nan_leaves_the_others_bit_equal_and_ends_diverged(make_run):
    good, bad = make_run(seed=1), make_run(seed=2, lr=1e30, clip=0.0, weight_decay=0.0)
    packed = by_run(train(Job((good, bad), Placement())))
    assert packed[good.run_id] == by_run(train(Job((good,), Placement())))[good.run_id]
    end = packed[bad.run_id][-1]
    assert end.state is State.DIVERGED
    assert f"diverged at step {end.step + 1} (loss " in end.message
    assert all(math.isfinite(row.value) for row in packed[bad.run_id][:-1])


def test_a_run_that_ends_far_worse_than_a_guess_has_diverged_however_finite(make_run):
    run = make_run(lr=5.0, clip=0.0, steps=30, every=10)
    events = list(train(Job((run,), Placement())))
    end = events[-1]
    assert (end.state, end.step) == (State.DIVERGED, 30)
    assert "a uniform guess has 3.466" in end.message
    assert all(math.isfinite(event.value) for event in events[:-1])


def test_a_run_that_leaves_its_pack_leaves_the_others_bit_equal(make_run):
    stays, goes = make_run(seed=1), make_run(seed=2)
    trainer = Trainer(Job((stays, goes), Placement()))
    events = [event for _ in range(4) for event in trainer.step()]
    trainer.leave(goes.run_id)
    while trainer.running:
        events += trainer.step()
    assert by_run(events)[stays.run_id] == by_run(train(Job((stays,), Placement())))[stays.run_id]


@pytest.mark.parametrize("ahead", [2, 7, 100])
def test_rows_are_the_same_however_far_the_engine_looks_ahead(make_run, ahead):
    runs = (make_run(seed=1), make_run(seed=2, steps=9), make_run(seed=3, lr=1e30, clip=0.0, weight_decay=0.0))
    trainer = Trainer(Job(runs, Placement()))
    trainer.engine.ahead = ahead
    calls, events = [], []
    while trainer.running:
        before = trainer.tokens
        events += trainer.step()
        calls.append((trainer.tokens - before) // runs[0].batch_tokens)
    assert by_run(events) == by_run(train(Job(runs, Placement())))
    assert max(calls) >= min(ahead, 5)  # nothing is due for five steps
    ends = [event for event in events if isinstance(event, Ended)]
    assert trainer.tokens == sum(end.step for end in ends) * runs[0].batch_tokens


@pytest.mark.parametrize(("family", "stop", "precision"), pairwise(list(MODELS), [1, 5, 7, 11], PRECISIONS))
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(make_run, family, stop, precision):
    run = make_run(precision=precision, family=family)
    whole = by_run(train(Job((run,), Placement())))[run.run_id]
    first = Trainer(Job((run,), Placement()))
    events = [event for _ in range(stop) for event in first.step()]
    kept = first.progress(run.run_id)
    assert kept.step == stop
    assert [timeless(e) for e in [*events, *train(Job((run,), Placement()), {run.run_id: kept})]] == whole


def test_runs_at_different_steps_go_on_together(make_run):
    one, two = make_run(seed=1), make_run(seed=2)
    ahead = Trainer(Job((one,), Placement()))
    head = [event for _ in range(5) for event in ahead.step()]
    rest = by_run(train(Job((one, two), Placement()), {one.run_id: ahead.progress(one.run_id)}))
    for run, before in ((one, head), (two, [])):
        solo = by_run(train(Job((run,), Placement())))[run.run_id]
        assert [*map(timeless, before), *rest[run.run_id]] == solo


def test_micro_batches_change_nothing_but_rounding(make_run):
    run = make_run(sequences=8, d_model=32)
    whole, parts = ([e for e in train(Job((run,), Placement(micro_batch=m))) if isinstance(e, Row)] for m in (None, 3))
    assert [row.value for row in parts] == pytest.approx([row.value for row in whole], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "precision"),
    pairwise(
        [
            {},
            {"position": "rotary", "norm": "rms", "bias": False},
            {"family": "encoder-decoder"},
            {"family": "encoder-decoder", "norm_first": False},
            {"family": "vit"},
        ],
        PRECISIONS,
    ),
    ids=str,
)
def test_recomputing_blocks_changes_no_bit(make_run, options, precision):
    runs = tuple(make_run(seed=seed, precision=precision, **options) for seed in (1, 2))
    placement = Placement(micro_batch=2)
    assert by_run(train(Job(runs, dataclasses.replace(placement, recompute=True)))) == by_run(
        train(Job(runs, placement))
    )


def test_recomputing_keeps_the_input_of_each_block_alone(make_run):
    run = make_run(d_model=32, sequences=8)

    def kept(recompute):
        engine = Trainer(Job((run,), Placement(recompute=recompute))).engine
        tokens = torch.from_numpy(engine.data.batches([0], [0], 8, run.context))
        seen = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: seen.append(x.numel()) or x, lambda x: x):
            engine.forward.token_losses(engine.parts(8)[0][1], tokens, run.model.options, engine.call)
        return sum(seen)

    ledger = MODELS["decoder"].ledger(run.model.options)
    assert kept(True) < 0.6 * kept(False)
    assert ledger.train_bytes(192, state=0, recompute=True) < ledger.train_bytes(192, state=0)


def test_micro_batches_sum_to_the_gradient_of_the_whole_batch_in_float64(make_run):
    run = make_run(sequences=8, d_model=32, precision="fp64")
    thetas = []
    for micro_batch in (None, 3, 1):
        engine = Trainer(Job((run,), Placement(micro_batch=micro_batch))).engine
        tokens = torch.from_numpy(engine.data.batches([0], [0], 8, run.context))
        engine._gradients(tokens)
        thetas.append(engine.population.grad.clone())
    assert thetas[0].abs().max() > 1e-3
    assert all((theta - thetas[0]).abs().max() < 1e-12 for theta in thetas[1:])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.compile about its own parts
@pytest.mark.parametrize("family", MODELS)
def test_compiled_blocks_train_alike(make_run, family):
    run = make_run(steps=6, every=3, family=family)
    plain, compiled = (
        [event.value for event in train(Job((run,), Placement(compile=on))) if isinstance(event, Row)]
        for on in (False, True)
    )
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_rows_hold_every_measurement_once_with_its_cost(make_run):
    run = make_run(steps=12, every=5)
    rows = [e for e in train(Job((run,), Placement())) if isinstance(e, Row)]
    assert sorted({row.step for row in rows}) == [5, 10, 12]
    assert len({(row.step, row.split, row.metric) for row in rows}) == len(rows) == 9
    per_token = MODELS["decoder"].ledger(run.model.options).flops_per_token()
    for row in rows:
        assert row.tokens == row.step * run.batch_tokens
        assert row.flops == row.tokens * per_token


def test_the_held_out_loss_is_the_mean_over_its_tokens_with_the_error_over_sequences(make_run):
    run = make_run(steps=1)
    trainer = Trainer(Job((run,), Placement()))
    state = fresh(run)
    layout = trainer.engine.layout
    held = torch.from_numpy(TASKS["markov"].open_data(run.task.options).held_out(480, run.context))
    losses = trainer.engine.forward.token_losses(layout.views(state.row.theta[None]), held[None], run.model.options)
    per_sequence = losses.detach().double().view(len(held), -1).mean(1).numpy()
    mean, error = (measured.value for measured in trainer._evaluate([0])[0][:2])
    assert mean == pytest.approx(per_sequence.mean(), rel=1e-6)
    assert error == pytest.approx(per_sequence.std(ddof=1) / np.sqrt(len(held)), rel=1e-5)


@pytest.mark.parametrize("variant", [{}, {"norm_first": False, "activation": "relu", "window": 9}], ids=str)
def test_one_batch_is_learnt_by_heart(make_run, variant):
    run = make_run(d_model=64, steps=150, lr=3e-3, sequences=2, context=24, every=1000, **variant)
    trainer = Trainer(Job((run,), Placement()))
    batch = trainer.data.batches([0], [0], 2, 24)
    trainer.engine.data = type("Same", (), {"batches": staticmethod(lambda *a: batch)})()
    while trainer.running and trainer.seats[0].step < 149:
        trainer.step()
    assert trainer.seats[0].last_loss < 0.05


def test_initial_parameters_depend_on_seed_and_name_alone():
    wide = MODELS["decoder"].ledger(MODELS["decoder"].options(16, 3, 4, 24, 32)).tensors
    narrow = [t for t in wide if not t.name.startswith("layer2")]
    rows = [pop.Layout.of(table).views(pop.initial_row(table, 5)[None]) for table in (wide, narrow)]
    assert torch.equal(rows[0]["layer1.qkv.weight"], rows[1]["layer1.qkv.weight"])
    assert not torch.equal(rows[0]["layer1.qkv.weight"], rows[0]["layer0.qkv.weight"])
    other = pop.Layout.of(wide).views(pop.initial_row(wide, 6)[None])
    assert not torch.equal(rows[0]["token"], other["token"])
    assert rows[0]["layer0.norm1.scale"].eq(1).all()
    assert rows[0]["token"].std().item() == pytest.approx(0.02, rel=0.1)


def test_changed_data_are_refused_rather_than_trained_on(make_run):
    run = make_run()
    changed = dataclasses.replace(run, task=dataclasses.replace(run.task, fingerprint="sha256:other"))
    with pytest.raises(ValueError, match="changed since the plan"):
        Trainer(Job((changed,), Placement()))


def test_training_lowers_the_loss_of_the_language_towards_its_floor(make_run):
    run = make_run(d_model=32, steps=120, sequences=16, lr=1e-2, every=60)
    rows = [e for e in train(Job((run,), Placement())) if isinstance(e, Row) and e.metric == "loss"]
    held = [row.value for row in rows if row.split == "held-out"]
    floor = TASKS["markov"].floor(run.task.options, run.context)
    assert floor < held[-1] < held[0] < math.log(32)


def test_a_finished_job_yields_one_end_per_run(make_run):
    runs = [make_run(seed=seed, steps=6 + seed) for seed in range(3)]
    ends = [e for e in train(Job(tuple(runs), Placement())) if isinstance(e, Ended)]
    assert [(e.run_id, e.step, e.state) for e in ends] == [(r.run_id, r.steps, State.DONE) for r in runs]

"""A recorded step gives the numbers of the plain one, bit for bit on the CPU, through all that can happen to a pack."""

import dataclasses
import gc
import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch
from support import pairwise
from tape import DeviceOnly, Tape
from timeless import by_run

from scalectl.core.job import Job, Placement, State
from scalectl.core.rows import Row
from scalectl.models import MODELS
from scalectl.optim import OPTIMIZERS
from scalectl.train import graph, scaling
from scalectl.train import population as pop
from scalectl.train.engine import Engine
from scalectl.train.graph import GraphEngine
from scalectl.train.loop import Ended, Trainer, train


@pytest.fixture(autouse=True)
def _the_way_of_other_devices(monkeypatch):
    """AdamW's kernel for CPUs takes its numbers from the host, which nothing records; multipliers of 1 pass it by."""
    columns = pop.Layout.columns

    def with_rates(layout, tensors, rate, options, like):
        found = columns(layout, tensors, rate, options, like)
        ones = torch.ones(1, layout.width, device=like.device, dtype=like.dtype)
        return dataclasses.replace(found, rates=ones) if found.rates is None else found

    monkeypatch.setattr(pop.Layout, "columns", with_rates)


def taped(monkeypatch):
    """From here on every engine records on tapes; returns the tapes."""
    tapes = []

    def open_engine(runs, rows, data, placement):
        tapes.append(Tape())
        return GraphEngine(runs, rows, data, placement, recorder=tapes[-1])

    monkeypatch.setattr("scalectl.train.loop.open_engine", open_engine)
    return tapes


@pytest.mark.parametrize(("family", "precision"), pairwise(list(MODELS), ["fp32", "bf16", "fp16"]))
def test_a_recorded_pack_equals_the_plain_one_bit_for_bit(make_run, monkeypatch, family, precision):
    runs = [
        make_run(family=family, seed=seed, lr=1e-3 * (1 + seed), precision=precision, steps=40 + 7 * seed)
        for seed in range(3)
    ]
    plain = by_run(train(Job(tuple(runs), Placement())))
    tapes = taped(monkeypatch)
    assert by_run(train(Job(tuple(runs), Placement()))) == plain
    assert tapes[0].replayed > 40  # most steps were replays


def test_rows_that_leave_idle_until_half_of_them_have_left(make_run, monkeypatch):
    runs = [make_run(seed=seed, steps=steps) for seed, steps in enumerate((12, 20, 33, 60, 61))]
    runs[1] = make_run(seed=1, lr=1e30, clip=0.0, weight_decay=0.0, steps=20)  # this one leaves as NaN, and idles on
    plain = by_run(train(Job(tuple(runs), Placement())))
    tapes = taped(monkeypatch)
    trainer = Trainer(Job(tuple(runs), Placement()))
    events, sizes = [], []
    while trainer.running:
        events += trainer.step()
        sizes.append((len(trainer.engine), len(trainer.engine.population)))
    assert by_run(events) == plain
    assert {(3, 5), (2, 2)} <= set(sizes)
    assert tapes[0].recorded == 4  # step and evaluation of 5 rows, and of 2; the last row is alone for one step


def test_branches_take_the_rows_that_idle_and_equal_the_plain_ones_bit_for_bit(make_run, monkeypatch):
    budgets = (24, 30, 36, 48, 60)
    runs = [make_run(seed=seed, lr=lr, steps=steps) for seed, lr in ((1, 3e-3), (2, 1e-3)) for steps in budgets]
    plain = by_run(train(Job(tuple(runs), Placement())))
    tapes = taped(monkeypatch)
    trainer = Trainer(Job(tuple(runs), Placement()))
    events, sizes = [], []
    while trainer.running:
        events += trainer.step()
        sizes.append((len(trainer.engine), len(trainer.engine.population)))
    assert by_run(events) == plain
    assert sizes[0] == (2, 2)
    assert {(4, 4), (2, 4)} <= set(sizes)
    assert tapes[0].recorded <= 4  # step and evaluation of 2 rows, and of 4


def test_a_recorded_run_resumes_where_it_stood_bit_for_bit(make_run, monkeypatch):
    runs = (make_run(seed=1, steps=40), make_run(seed=2, steps=40))
    whole = by_run(train(Job(runs, Placement())))
    taped(monkeypatch)
    first = Trainer(Job(runs, Placement()))
    events = []
    while first.seats[0].step < 21:
        events += first.step()
    kept = {run.run_id: first.progress(run.run_id) for run in runs}
    assert by_run([*events, *train(Job(runs, Placement()), kept)]) == whole


def test_a_loss_scale_that_moves_is_replayed(make_run, monkeypatch):
    monkeypatch.setattr(scaling, "GROWTH_INTERVAL", 5)
    monkeypatch.setattr(scaling, "INITIAL", 2.0**28)
    runs = (make_run(seed=1, precision="fp16", steps=30), make_run(seed=2, precision="fp16", steps=30))
    plain = by_run(train(Job(runs, Placement())))
    tapes = taped(monkeypatch)
    assert by_run(train(Job(runs, Placement()))) == plain
    assert tapes[0].replayed > 20


def test_a_run_that_diverges_between_two_looks_ends_at_the_same_step(make_run, monkeypatch):
    runs = (make_run(seed=1, steps=30, every=30), make_run(seed=2, steps=30, every=30, lr=300.0, clip=0.0))
    plain = by_run(train(Job(runs, Placement())))
    assert plain[runs[1].run_id][-1].state is State.DIVERGED
    taped(monkeypatch)
    assert by_run(train(Job(runs, Placement()))) == plain


class _Elsewhere(torch.Tensor):
    """Tokens that are copied on their way to the device, as those of a host are."""

    copies: ClassVar[list[weakref.ref]] = []

    def to(self, *args):
        copy = self.as_subclass(torch.Tensor).clone()
        self.copies.append(weakref.ref(copy))
        return copy


def test_the_tokens_that_a_recorded_evaluation_reads_outlive_it(make_run):
    class Graph:
        """Like a CUDA graph it holds addresses, and neither tensors nor the work."""

        def warm(self, work):
            work()

        def record(self, work):
            work()
            return lambda: None

    run = make_run()
    trainer = Trainer(Job((run,), Placement()))
    engine = GraphEngine((run,), (trainer.engine.row(0),), trainer.data, Placement(), recorder=Graph())
    tokens = trainer.exam.tokens_BW.as_subclass(_Elsewhere)
    for _ in range(3):
        engine.evaluate(tokens, [0])
    gc.collect()
    assert _Elsewhere.copies[-1]() is not None


def test_data_that_do_not_fit_on_the_device_are_gathered_before(make_run, monkeypatch):
    run = make_run(steps=12)
    plain = by_run(train(Job((run,), Placement())))
    monkeypatch.setattr(graph, "_resident", lambda data, device: None)
    taped(monkeypatch)
    assert by_run(train(Job((run,), Placement()))) == plain


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_tokens_on_the_device_are_those_of_the_batch_for_every_type_of_array(make_run, dtype):
    run = make_run()
    engine = Trainer(Job((run,), Placement(graph=True))).engine
    data = engine.data
    largest = 250 if dtype == np.uint8 else 40_000
    data = dataclasses.replace(
        data, train=(np.arange(data.train.size).reshape(data.train.shape) % largest).astype(dtype)
    )
    engine.source = graph._resident(data, torch.device("cpu"))
    begins = data.begins([3, 4], [0, 5], run.sequences, run.context)
    found = engine._gather(torch.from_numpy(begins))
    assert np.array_equal(found.numpy(), data.batches([3, 4], [0, 5], run.sequences, run.context))


def test_the_engine_looks_so_far_ahead_that_a_stop_is_answered_soon(make_run, monkeypatch):
    monkeypatch.setattr(graph, "AHEAD_SECONDS", 1e9)
    trainer = Trainer(Job((make_run(steps=1000, every=1000, sequences=1),), Placement(graph=True)))
    trainer.step()
    trainer.step()
    assert trainer.engine.ahead == graph.AHEAD
    monkeypatch.setattr(graph, "AHEAD_SECONDS", 0.0)
    trainer.step()
    assert trainer.engine.ahead == 1


def test_a_placement_chooses_the_engine(make_run):
    run = make_run()
    assert type(Trainer(Job((run,), Placement())).engine) is Engine
    assert type(Trainer(Job((run,), Placement(graph=True))).engine) is GraphEngine


def fails_at(engine, monkeypatch, calls):
    """The forward pass of this engine runs out of memory in these calls."""
    count = iter(range(10**6))
    forward = engine.forward.token_losses

    def short(views, tokens, options, run=None):
        if next(count) in calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
        return forward(views, tokens, options, run)

    monkeypatch.setattr(engine, "forward", type("Short", (), {"token_losses": staticmethod(short)}))


def optimised(run, name):
    """The run with an optimiser of the table, every rate without a default at .01."""
    kind = OPTIMIZERS[name].options
    rates = {field.name: 0.01 for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    return dataclasses.replace(run, optim=dataclasses.replace(run.optim, name=name, options=kind(**rates)))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options", [{}, {"position": "rotary", "norm": "rms", "bias": False}, {"position": "sinusoidal"}]
)
def test_a_step_beyond_the_cpu_asks_for_no_number_and_meets_nothing_of_the_host(
    make_run, precision, optimizer, options
):
    run = optimised(make_run(precision=precision, **options), optimizer)
    here = Trainer(Job((run,), Placement())).engine
    engine = GraphEngine((run, run), (here.row(0), here.row(0)), here.data, Placement("meta", micro_batch=3))
    engine._one()  # warms caches up, as on a GPU
    with DeviceOnly("meta") as mode:
        engine._one()
    assert mode.calls > 100
    with DeviceOnly("meta"), pytest.raises(RuntimeError, match="cannot be recorded"):
        engine.losses.sum().item()
    with DeviceOnly("meta"), pytest.raises(RuntimeError, match="meets a tensor"):
        engine.losses.copy_(torch.zeros(engine.losses.shape))


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("call", [0, 3, 9])
def test_out_of_memory_halves_the_micro_batch_and_takes_the_same_step_again(make_run, monkeypatch, call, recorded):
    run = make_run(steps=8, every=4)
    tapes = taped(monkeypatch) if recorded else []
    whole = Trainer(Job((run,), Placement()))
    fails_at(whole.engine, monkeypatch, {call})
    events = []
    while whole.running:
        events += whole.step()
    assert whole.engine.micro_batch == 2
    assert whole.notes() == ["out of memory: 2 sequences in a forward pass in place of 4"]
    assert whole.notes() == []
    assert events[-1].state is State.DONE
    assert all(tape.recorded for tape in tapes)
    if call == 0:  # then every step was taken with two sequences at a time
        assert by_run(events) == by_run(train(Job((run,), Placement(micro_batch=2))))
    plain = [event.value for event in train(Job((run,), Placement())) if isinstance(event, Row)]
    assert [event.value for event in events if isinstance(event, Row)] == pytest.approx(plain, rel=1e-5)


def test_a_failed_attempt_leaves_parameters_and_moments_untouched(make_run, monkeypatch):
    run = make_run(precision="fp16")
    engine = Trainer(Job((run,), Placement(micro_batch=2))).engine
    before = engine.row(0)
    seen = []
    forward = engine.forward.token_losses

    def short(views, tokens, options, run=None):
        if len(seen) == 1:  # the first half of the batch has left its gradient behind
            seen.append(engine.row(0))
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(None)
        return forward(views, tokens, options, run)

    monkeypatch.setattr(engine, "forward", type("Short", (), {"token_losses": staticmethod(short)}))
    engine.learn([[graph.Turn(0, 1.0)]])
    at_failure = seen[1]
    for name in ("theta", "scaling"):
        assert torch.equal(getattr(at_failure, name), getattr(before, name))
    assert all(torch.equal(a, b) for a, b in zip(at_failure.slots, before.slots, strict=True))
    fresh = Trainer(Job((run,), Placement(micro_batch=1))).engine
    fresh.learn([[graph.Turn(0, 1.0)]])
    assert torch.equal(engine.row(0).theta, fresh.row(0).theta)


def test_memory_that_does_not_do_for_one_sequence_is_an_error(make_run, monkeypatch):
    trainer = Trainer(Job((make_run(),), Placement()))
    fails_at(trainer.engine, monkeypatch, range(100))
    with pytest.raises(torch.OutOfMemoryError):
        trainer.step()
    assert len(trainer.notes()) == 2


def test_every_optimiser_is_recorded(make_run, monkeypatch):
    for optimizer in OPTIMIZERS:
        run = optimised(make_run(steps=20), optimizer)
        plain = by_run(train(Job((run,), Placement())))
        with monkeypatch.context() as patch:
            taped(patch)
            assert by_run(train(Job((run,), Placement()))) == plain
    assert not any(isinstance(event, Ended) and event.state is not State.DONE for event in plain[run.run_id])

"""The tape of the CPU: the gradients of torch.autograd bit for bit, and an error for whatever it cannot see."""

import gc
import weakref

import pytest
import torch
from torch.autograd import gradcheck

from scalectl.models import cpu, tape
from scalectl.models import primitives as p
from scalectl.models.tape import Tape

K, B, T, D = 2, 2, 5, 6


def parameter(*shape, seed=0):
    held = torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)
    held.requires_grad_().grad = torch.zeros_like(held)
    return held


def test_gradients_of_the_layers_that_only_a_tape_needs():
    index = torch.randint(7, (K, B * T), generator=torch.Generator().manual_seed(0))
    assert gradcheck(lambda table: p.embedding(index, table), (parameter(K, 7, D),))
    assert gradcheck(lambda x, table: p.add_positions(x, table, B), (parameter(K, B * T, D), parameter(K, T, D)))
    assert gradcheck(lambda x: p.times(x, 0.3), (parameter(K, B * T, D),))
    assert gradcheck(p.exact_gelu, (parameter(3, 8),))
    assert gradcheck(p.relu, (parameter(3, 8),))
    assert gradcheck(lambda *held: p.scaled(p.Normed(*held)), (parameter(K, 4, D), parameter(K, D), parameter(K, D)))


def test_a_parameter_that_is_used_twice_is_summed_before_it_is_added():
    """(G + g1) + g2 would round otherwise than torch.autograd's G + (g1 + g2)."""
    weight, index = parameter(1, 4, 4).detach().float(), torch.arange(4)[None]
    before = torch.full_like(weight, 3e7)  # so large that 1 is lost beside it, and 2 is not
    weight.requires_grad_().grad = before.clone()
    with Tape() as running:
        x = p.embedding(index, weight)
        running.backward(p.linear(x, weight.mT, None), torch.ones(1, 4, 4))
    on_tape, weight.grad = weight.grad, before.clone()
    x = p.embedding(index, weight)
    p.linear(x, weight.mT, None).backward(torch.ones(1, 4, 4))
    assert torch.equal(on_tape, weight.grad)


def test_an_operation_that_is_not_written_down_is_an_error():
    weight = parameter(K, D, D)
    with Tape() as running:
        x = p.linear(p.embedding(torch.zeros(K, 3, dtype=torch.long), parameter(K, 4, D)), weight, None)
        with pytest.raises(RuntimeError, match="Linear: an input is neither a parameter"):
            p.linear(x * 2, weight, None)
        p.linear(x, weight, None)
        with pytest.raises(RuntimeError, match="Linear: no gradient came back"):
            running.backward(x, torch.ones_like(x))
    assert tape._running is None
    with Tape() as running, pytest.raises(RuntimeError, match="not the result of a call"):
        running.backward(weight, weight)


def test_nothing_outlives_a_tape():
    table, weight = parameter(K, 4, D), parameter(K, D, D)
    gc.collect()
    gc.disable()
    try:
        for finish in (True, False):
            with Tape() as running:
                x = p.gelu(p.linear(p.embedding(torch.zeros(K, 3, dtype=torch.long), table), weight, None))
                held = weakref.ref(x)
                if finish:
                    running.backward(x, torch.ones_like(x))
            del x
            assert held() is None
    finally:
        gc.enable()


def test_an_error_in_a_backward_keeps_nothing(monkeypatch):
    """What out-of-memory leaves behind would be missing at the second attempt."""
    table, scale, weight = parameter(K, 4, D), parameter(K, D), parameter(K, D, D)

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(cpu.Standardise, "backward", fail)
    gc.collect()
    gc.disable()
    try:
        with Tape() as running:
            unit = p.layer_norm(p.embedding(torch.zeros(K, 3, dtype=torch.long), table), scale, None)
            held = weakref.ref(unit.unit_KMD)
            y = p.linear(unit, weight, None)
            with pytest.raises(MemoryError):
                running.backward(y, torch.ones_like(y))
        del unit, y
        assert held() is None
        assert tape._running is None
    finally:
        gc.enable()


def test_one_tape_runs_at_a_time():
    with Tape(), pytest.raises(RuntimeError, match="a tape runs already"), Tape():
        pass
    assert tape._running is None


def test_rows_cannot_be_left_out_of_a_parameter():
    weight = parameter(K, D, D)
    with Tape() as running:
        x = p.embedding(torch.zeros(1, 3, dtype=torch.long), parameter(1, 4, D))
        y = p.linear(x, weight[1:], None)
        with pytest.raises(RuntimeError, match="leaves rows out"):
            running.backward(y, torch.ones_like(y))


def test_without_a_tape_the_layers_belong_to_autograd():
    x = parameter(1, 4, 8)
    assert p.gelu(x).grad_fn is not None
    assert not hasattr(p.gelu(x), "entry")
    assert cpu.Gelu.apply(x).requires_grad

"""The MLP against torch's own layers, and its ledger against what is really there."""

import itertools
import math

import pytest
import torch
from packed import (
    assert_other_devices_agree,
    assert_packs_equal_solos,
    gradients,
    overfitted,
    tape_gradients,
    training_flops,
    views,
)

from scalectl.models.mlp import forward
from scalectl.models.mlp.spec import Options, ledger, problems, tensors

BITS = Options(width=32, context=24, vocab=2, answers=1)
DEEP = Options(width=16, context=32, vocab=2, answers=1, n_layer=3)
SYMBOLS = Options(width=32, context=4, vocab=8, answers=1, n_layer=2)
ALL = [BITS, DEEP, SYMBOLS]


def samples(o, k=1, batch=32, seed=0):
    return torch.randint(o.vocab, (k, batch, o.context + 1), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("o", ALL, ids=str)
def test_logits_equal_a_sequential_of_torch_with_copied_weights(o):
    ours, batch = views(tensors(o), std=0.3), samples(o)
    sizes = [o.inputs, *[o.width] * o.n_layer, o.vocab]
    layers = [torch.nn.Linear(a, b, dtype=torch.float64) for a, b in itertools.pairwise(sizes)]
    names = [*(f"layer{i}" for i in range(o.n_layer)), "head"]
    steps = []
    with torch.no_grad():
        for name, layer in zip(names, layers, strict=True):
            layer.weight.copy_(ours[f"{name}.weight"][0].T)
            layer.bias.copy_(ours[f"{name}.bias"][0])
            steps += [layer, torch.nn.ReLU()]
        prompts = batch[0, :, :-1]
        x = prompts.double() if o.vocab == 2 else torch.nn.functional.one_hot(prompts, o.vocab).flatten(1).double()
        expected = torch.nn.Sequential(*steps[:-1])(x)
        found = forward.logits(ours, batch[..., :-1], o)[0]
    assert (found - expected).abs().max() < 1e-12
    losses, right = forward.judge(ours, batch, o)
    targets = batch[0, :, -1]
    assert (losses[0] - torch.nn.functional.cross_entropy(expected, targets, reduction="none")).abs().max() < 1e-12
    assert torch.equal(right[0], expected.argmax(1) == targets)


@pytest.mark.parametrize("o", ALL, ids=str)
def test_other_devices_compute_what_the_cpu_computes(o, monkeypatch):
    held = views(tensors(o), (0, 1), std=0.3)
    assert_other_devices_agree(monkeypatch, forward.token_losses, held, samples(o, k=2), o)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("o", ALL, ids=str)
def test_a_pack_equals_its_solos_bit_for_bit(o, dtype):
    assert_packs_equal_solos(forward.token_losses, tensors(o), samples(o, k=3), o, dtype)


@pytest.mark.parametrize("o", ALL, ids=str)
def test_the_tape_gives_the_gradients_of_torch(o):
    held, batch = views(tensors(o), (0, 1), std=0.3), samples(o, k=2)
    for mine, theirs in zip(
        tape_gradients(forward.token_losses, held, batch, o),
        gradients(forward.token_losses, held, batch, o),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("o", ALL, ids=str)
def test_the_ledger_counts_what_is_there(o):
    held, batch = views(tensors(o)), samples(o)
    assert ledger(o).params("total") == sum(view[0].numel() for view in held.values())
    assert ledger(o).params("non_embedding") == ledger(o).params("total")
    counted = training_flops(forward.token_losses, tensors(o), batch, o)
    assert counted == pytest.approx(ledger(o).flops_per_token() * batch.shape[1] * o.context, rel=1e-12)


def test_loss_at_initialisation_is_near_that_of_a_uniform_guess_and_one_batch_is_learnt():
    o = Options(width=64, context=24, vocab=2, answers=1)
    losses = forward.token_losses(views(tensors(o), dtype=torch.float32), samples(o, batch=2_048), o)
    assert math.log(2) - 0.05 < losses.mean().item() < math.log(2) + 0.6
    assert overfitted(forward.token_losses, tensors(o), samples(o), o, 200, 0.01) < 0.01


def test_bad_combinations_name_the_key():
    assert problems(Options(0, 4, 2, 1)) == [("width", "0 is not a positive number")]
    assert problems(Options(8, 4, 2, 3)) == [("answers", "an MLP answers with one token, and the task asks for 3")]
    assert problems(BITS) == []

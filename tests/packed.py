"""What tests of model families share: the views of drawn parameters, and what must hold of a packed forward pass."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from scalectl.models import primitives
from scalectl.models.tape import Tape
from scalectl.train.population import Layout, initial_row


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device, so that what other devices compute can be compared here."""

    is_cpu = False


def views(tensors, seeds=(0,), dtype=torch.float64, std=None):
    """The views of initial parameters; std: noise beside them, biases and scales included."""
    layout = Layout.of(tensors)
    matrix = torch.stack([initial_row(tensors, seed) for seed in seeds]).to(dtype)
    if std is not None:
        noise = [torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(1 + seed)) for seed in seeds]
        matrix = (matrix.double() + std * torch.stack(noise).double()).to(dtype)
    return layout.views(matrix)


def gradients(losses_of, held, batch, o, kind=torch.Tensor):
    """Losses, then the gradients of their sum by torch.autograd."""
    held = {name: view.detach().clone().as_subclass(kind).requires_grad_() for name, view in held.items()}
    losses = losses_of(held, batch.as_subclass(kind), o)
    assert isinstance(losses, kind)
    losses.sum().backward()
    return [losses.detach(), *(view.grad for view in held.values())]


def tape_gradients(losses_of, held, batch, o):
    """The same without autograd."""
    held = {name: view.detach().clone().requires_grad_() for name, view in held.items()}
    for view in held.values():
        view.grad = torch.zeros_like(view)
    with Tape() as running:
        losses = losses_of(held, batch, o)
        running.backward(losses, torch.ones_like(losses))
    return [losses, *(view.grad for view in held.values())]


def assert_other_devices_agree(monkeypatch, losses_of, held, batch, o):
    """What torch's own layers compute is what the CPU's do, and so are the gradients."""
    here = gradients(losses_of, held, batch, o)
    with monkeypatch.context() as patched:
        patched.setattr(primitives, "cpu", None)
        there = gradients(losses_of, held, batch, o, Elsewhere)
    for ours, expected in zip(here, there, strict=True):
        assert (ours - expected).abs().max() < 1e-11 * max(1, expected.abs().max())


def assert_packs_equal_solos(losses_of, tensors, batch, o, dtype):
    """Losses and gradients of a pack are those of its rows alone, and of torch.autograd, bit for bit."""
    k = len(batch)
    held = views(tensors, range(k), dtype, std=0.1)
    packed = tape_gradients(losses_of, held, batch, o)
    for ours, expected in zip(packed, gradients(losses_of, held, batch, o), strict=True):
        assert torch.equal(ours, expected)
    for row in range(k):
        alone = tape_gradients(losses_of, {n: v[row : row + 1] for n, v in held.items()}, batch[row : row + 1], o)
        for whole, one in zip(packed, alone, strict=True):
            assert torch.equal(whole[row : row + 1], one)


def training_flops(losses_of, tensors, batch, o):
    """FLOPs of forward and backward, counted on the meta device, where no fused kernel hides its products."""
    held = {name: view.to("meta").requires_grad_() for name, view in views(tensors).items()}
    with FlopCounterMode(display=False) as counter:
        losses_of(held, batch.to("meta"), o).sum().backward()
    return counter.get_total_flops()


def overfitted(losses_of, tensors, batch, o, steps, lr):
    """The mean loss of a model after steps of Adam on one batch."""
    held = {name: view.clone().requires_grad_() for name, view in views(tensors, dtype=torch.float32).items()}
    optimizer = torch.optim.Adam(held.values(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = losses_of(held, batch, o).mean()
        loss.backward()
        optimizer.step()
    return loss.item()

"""SGD and Muon against torch's own, step by step in float64, each row with its own numbers."""

import pytest
import torch

from scalectl.core.cost import Tensor
from scalectl.optim import OPTIMIZERS, MuonOptions, SGDOptions, muon, sgd
from scalectl.train.population import Layout

TABLE = (
    Tensor("token", (6, 16), "lookup", std=1.0, decay=True, embedding=True),
    Tensor("qkv", (16, 48), "matmul", std=1.0, decay=True, parts=3),
    Tensor("out", (16, 16), "matmul", std=1.0, decay=True),
    Tensor("norm", (16,), "vector"),
    Tensor("down", (64, 16), "matmul", std=1.0, decay=True),
    Tensor("up", (16, 64), "matmul", std=1.0, decay=True),
    Tensor("bias", (24,), "vector"),
)
ONES = torch.ones(2, 1, dtype=torch.float64)


def start(name, options, dtype=torch.float64):
    """Layout, random parameters of two models, empty state, and the columns."""
    layout = Layout.of(TABLE)
    theta = torch.randn(2, layout.width, generator=torch.Generator().manual_seed(0), dtype=dtype)
    slots = tuple(torch.zeros(2, width, dtype=dtype) for width in OPTIMIZERS[name].state(TABLE))
    return layout, theta, slots, layout.columns(TABLE, OPTIMIZERS[name].rate, options[0], theta)


def gradients(theta, steps):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(theta.shape, generator=generator, dtype=theta.dtype) for _ in range(steps)]


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_equals_torch_step_by_step(nesterov):
    rows = [SGDOptions(0.1, nesterov=nesterov), SGDOptions(0.03, 0.5, nesterov, weight_decay=0.2, clip=0.7)]
    layout, theta, slots, columns = start("sgd", rows)
    theirs = []
    for row, o in zip(theta, rows, strict=True):
        views = {name: view[0].clone().requires_grad_() for name, view in layout.views(row[None]).items()}
        decayed = [views[t.name] for t in TABLE if t.decay]
        others = [views[t.name] for t in TABLE if not t.decay]
        groups = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": others, "weight_decay": 0.0}]
        theirs.append((views, torch.optim.SGD(groups, lr=o.lr, momentum=o.momentum, nesterov=nesterov)))
    held = sgd.Rows.of(rows, torch.device("cpu"))
    for step, grad in enumerate(gradients(theta, 30)):
        follow(theirs, rows, layout, grad)
        norms = sgd.step(theta, grad.clone(), slots, held, ONES, ONES * (step + 1), columns)
        assert torch.allclose(norms[:, 0], grad.norm(dim=1))
        compare(theta, theirs, layout, 1e-12)


def follow(theirs, rows, layout, grad):
    """One step of torch's optimisers with the same gradients, clipped likewise."""
    for k, ((views, *optimizers), o) in enumerate(zip(theirs, rows, strict=True)):
        for name, gradient in layout.views(grad[k : k + 1]).items():
            views[name].grad = gradient[0].clone()
        spare = torch.zeros(layout.width - sum(t.size for t in TABLE), dtype=grad.dtype, requires_grad=True)
        spare.grad = grad[k, layout.width - len(spare) :].clone()
        if o.clip:
            torch.nn.utils.clip_grad_norm_([*views.values(), spare], o.clip)
        for optimizer in optimizers:
            optimizer.step()


def compare(theta, theirs, layout, tolerance):
    for row, (views, *_) in zip(theta, theirs, strict=True):
        for name, view in layout.views(row[None]).items():
            assert (view[0] - views[name]).abs().max() < tolerance, name


class _Muon:
    """torch.optim.Muon over matrices as torch stores them, (fan out, fan in), query, key and value apart."""

    def __init__(self, views, o):
        self.views = views
        self.hidden = [t for t in TABLE if t.role == "matmul"]
        self.parts = {
            t.name: [part.mT.detach().clone().requires_grad_() for part in views[t.name].chunk(t.parts, dim=1)]
            for t in self.hidden
        }
        self.optimizer = torch.optim.Muon(
            [part for held in self.parts.values() for part in held],
            lr=o.lr,
            weight_decay=o.weight_decay,
            momentum=o.momentum,
            nesterov=o.nesterov,
            adjust_lr_fn=o.adjust,
        )

    @torch.no_grad()
    def step(self):
        for t in self.hidden:
            gradients = self.views[t.name].grad.chunk(t.parts, dim=1)
            for part, gradient in zip(self.parts[t.name], gradients, strict=True):
                part.grad = gradient.mT.clone()
        self.optimizer.step()
        for t in self.hidden:
            self.views[t.name].copy_(torch.cat([part.mT for part in self.parts[t.name]], dim=1))


def muon_and_adamw(theta, rows, layout):
    theirs = []
    for row, o in zip(theta, rows, strict=True):
        views = {name: view[0].clone().requires_grad_() for name, view in layout.views(row[None]).items()}
        rest = [t for t in TABLE if t.role != "matmul"]
        groups = [
            {"params": [views[t.name] for t in rest if t.decay], "weight_decay": o.weight_decay},
            {"params": [views[t.name] for t in rest if not t.decay], "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(groups, lr=o.adamw_lr, betas=(o.beta1, o.beta2), eps=o.eps)
        theirs.append((views, _Muon(views, o), adamw))
    return theirs


def muon_rows(nesterov, adjust):
    return [
        MuonOptions(0.02, 0.003, nesterov=nesterov, adjust=adjust),
        MuonOptions(0.05, 0.01, weight_decay=0.3, momentum=0.8, nesterov=nesterov, adjust=adjust, beta2=0.99, clip=0.7),
    ]


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_equals_torch_step_by_step(monkeypatch, nesterov, adjust):
    """In float64 throughout: torch would round to bf16 inside its iteration, so that cast is taken out."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # torch divides the result in place
    rows = muon_rows(nesterov, adjust)
    layout, theta, slots, columns = start("muon", rows)
    theirs = muon_and_adamw(theta, rows, layout)
    held = muon.Rows.of(rows, torch.device("cpu"))
    for step, grad in enumerate(gradients(theta, 20)):
        follow(theirs, rows, layout, grad)
        norms = muon.step(theta, grad.clone(), slots, held, ONES, ONES * (step + 1), columns)
        assert torch.allclose(norms[:, 0], grad.norm(dim=1))
        compare(theta, theirs, layout, 1e-10)


def test_muon_in_fp32_equals_torch_up_to_the_rounding_of_bf16_in_its_iteration():
    rows = muon_rows(True, "original")
    layout, theta, slots, columns = start("muon", rows, torch.float32)
    before = theta.clone()
    theirs = muon_and_adamw(theta, rows, layout)
    held = muon.Rows.of(rows, torch.device("cpu"))
    for step, grad in enumerate(gradients(theta, 5)):
        follow(theirs, rows, layout, grad)
        muon.step(theta, grad.clone(), slots, held, ONES, ONES * (step + 1), columns)
    for k, (views, *_) in enumerate(theirs):
        for name, view in layout.views(theta).items():
            moved = (view[k] - layout.views(before)[name][k]).norm()
            assert (view[k] - views[name]).norm() < 0.01 * moved, name


def test_newton_schulz_brings_singular_values_near_one():
    x = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.linalg.svdvals(muon.orthogonal(x, torch.float64))
    assert values.min() > 0.6
    assert values.max() < 1.25

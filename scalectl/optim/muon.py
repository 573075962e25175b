"""Muon on packed matrices: the momentum of a hidden matrix, orthogonalised, is its update; AdamW moves all else.

Sources: Jordan et al. 2024, kellerjordan.github.io/posts/muon (the method, its coefficients, bf16 in the iteration, and
query, key and value as matrices of their own); Liu et al. 2025, arXiv 2502.16982 (`match_rms_adamw`). The order of
operations is that of torch.optim.Muon.

Legend: K models in the pack, H columns of hidden matrices, R = P - H other columns, N matrices of one shape in all,
(I, J) that shape with I <= J.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalectl.optim import Columns, MuonOptions, adamw, adjustment
from scalectl.optim.adamw import clip, columns_of

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; Jordan et al. 2024: the steepest slope at zero
ITERATIONS = 5
EPS = 1e-7
FEW = 16**3  # multiplications up to which torch on a CPU keeps a product of bf16 from oneDNN, counted over the batch


@dataclass(frozen=True)
class Rows:
    """Options of K rows as columns of shape (K, 1) in float64; unclipped: zeros; what all rows share stands last."""

    lr: Tensor
    momentum: Tensor
    weight_decay: Tensor
    clip: Tensor
    adamw_lr: Tensor
    beta1: Tensor
    beta2: Tensor
    eps: Tensor
    unclipped: Tensor
    nesterov: bool
    adjust: str

    @staticmethod
    def of(options: list[MuonOptions], device: torch.device) -> Rows:
        """The options of each row."""
        names = ("lr", "momentum", "weight_decay", "clip", "adamw_lr", "beta1", "beta2", "eps")
        held = columns_of(options, names, device)
        return Rows(*held, torch.zeros_like(held[0]), options[0].nesterov, options[0].adjust)

    @property
    def rest(self) -> adamw.Rows:
        """Those of AdamW; the whole row has been clipped by then."""
        return adamw.Rows(self.adamw_lr, self.weight_decay, self.beta1, self.beta2, self.eps, self.unclipped)


@torch.no_grad()
def step(
    theta: Tensor, grad: Tensor, slots: tuple[Tensor, ...], rows: Rows, factor: Tensor, taken: Tensor, columns: Columns
) -> Tensor:
    """Clip each row by its norm, then update parameters and state in place.

    Args: theta, grad: (K, P); slots: momentum (K, H), first and second moment of the rest (K, R); factor: (K, 1), the
    schedule's; taken: (K, 1), steps including this one.
    Returns: gradient norms before clipping, shape (K, 1).
    """
    momentum, first, second = slots
    norm = clip(grad, rows.clip)
    inside = _joined([(at, at + tensor.size) for at, tensor in columns.hidden])
    outside = _between(inside, theta.shape[1])
    _step_hidden(theta, _gathered(grad, inside), momentum, rows, factor, columns, inside)
    rest = _gathered(theta, outside).clone()
    rates = None if columns.rates is None else _gathered(columns.rates, outside)
    others = Columns(columns.decayed - sum(b - a for a, b in inside), (), rates)
    adamw.step(rest, _gathered(grad, outside).clone(), (first, second), rows.rest, factor, taken, others)
    at = 0
    for a, b in outside:
        theta[:, a:b] = rest[:, at : at + b - a]
        at += b - a
    return norm


def _step_hidden(
    theta: Tensor,
    grad_KH: Tensor,
    momentum_KH: Tensor,
    rows: Rows,
    factor: Tensor,
    columns: Columns,
    spans: Sequence[tuple[int, int]],
) -> None:
    kind = theta.dtype
    weight = rows.momentum.to(kind)
    momentum_KH.lerp_(grad_KH, (1 - rows.momentum).to(kind).expand_as(grad_KH))
    update_KH = grad_KH.lerp(momentum_KH, weight.expand_as(grad_KH)) if rows.nesterov else momentum_KH
    lr = rows.lr * factor
    for a, b in spans:
        theta[:, a:b].mul_((1 - lr * rows.weight_decay).to(kind))
    K = len(theta)
    alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}  # by shape: where it goes, what is to be orthogonal
    offset = 0
    for at, tensor in columns.hidden:
        goes = theta[:, at : at + tensor.size].view(K, *tensor.shape).chunk(tensor.parts, dim=2)
        comes = update_KH[:, offset : offset + tensor.size].reshape(K, *tensor.shape).chunk(tensor.parts, dim=2)
        offset += tensor.size
        size = lr * adjustment(tensor, rows.adjust)
        if columns.rates is not None:
            size = size * columns.rates[:, at : at + 1]
        for there, here in zip(goes, comes, strict=True):
            turned = here.shape[1] >= here.shape[2]  # a square as torch stores it, so that it rounds as there
            pair = (there.mT if turned else there, here.mT if turned else here)
            alike.setdefault((pair[1].shape[1], pair[1].shape[2]), []).append((*pair, size.to(kind)[:, :, None]))
    for held in alike.values():
        stacked = torch.stack([here for _, here, _ in held], dim=1)
        rounded = stacked.dtype != torch.float64 and stacked[0].numel() * stacked.shape[2] > FEW
        whole = orthogonal(stacked.flatten(0, 1), torch.bfloat16 if rounded else stacked.dtype).view_as(stacked)
        for (there, _, size_K11), moved in zip(held, whole.unbind(1), strict=True):
            there.sub_(moved.to(kind) * size_K11)


def orthogonal(x_NIJ: Tensor, kind: torch.dtype) -> Tensor:
    """Every matrix with its singular values brought near 1 (between .7 and 1.2) by Newton-Schulz iteration.

    Args: kind: the type to compute in, bf16 as Jordan et al. 2024 have it. The caller leaves float64 as it is, and
    float32 where the matrices of one model are so few and small that torch picks its kernel by the size of the pack.
    """
    a, b, c = COEFFICIENTS
    x_NIJ = x_NIJ.to(kind)
    x_NIJ = x_NIJ / torch.linalg.vector_norm(x_NIJ, dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram_NII = torch.bmm(x_NIJ, x_NIJ.mT)
        power_NII = torch.baddbmm(gram_NII, gram_NII, gram_NII, beta=b, alpha=c)
        x_NIJ = torch.baddbmm(x_NIJ, power_NII, x_NIJ, beta=a)
    return x_NIJ


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same columns in as few spans as there can be."""
    found: list[tuple[int, int]] = []
    for a, b in spans:
        if found and found[-1][1] == a:
            a = found.pop()[0]
        found.append((a, b))
    return found


def _between(spans: Sequence[tuple[int, int]], width: int) -> list[tuple[int, int]]:
    """The columns outside of ordered spans."""
    edges = [0, *(edge for span in spans for edge in span), width]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def _gathered(matrix: Tensor, spans: Sequence[tuple[int, int]]) -> Tensor:
    return torch.cat([matrix[:, a:b] for a, b in spans], dim=1)

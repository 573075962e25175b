"""Rows of a tensor table that families without muP share. Torch-free."""

from __future__ import annotations

from scalectl.core.cost import Tensor

INIT_STD = 0.02  # GPT-2's, and that of the vision transformers of timm and Hugging Face


def residual_std(sums: int) -> float:
    """Of the projections that end in one of so many residual sums, which shrink with depth, as GPT-2's."""
    return float(INIT_STD / sums**0.5)


def norm(name: str, d: int) -> list[Tensor]:
    """A layer norm."""
    return [Tensor(f"{name}.scale", (d,), "vector", fill=1.0), Tensor(f"{name}.shift", (d,), "vector")]


def linear(name: str, fan: tuple[int, int], std: float = INIT_STD, parts: int = 1) -> list[Tensor]:
    """A matrix (fan in, fan out) and its bias."""
    weight = Tensor(f"{name}.weight", fan, "matmul", std=std, decay=True, parts=parts)
    return [weight, Tensor(f"{name}.bias", (fan[1],), "vector")]


def block(name: str, d: int, hidden: int, sums: int) -> list[Tensor]:
    """Self-attention and an MLP, each with its norm. sums: residual sums of the whole model."""
    end = residual_std(sums)
    return [
        *norm(f"{name}.norm1", d),
        *linear(f"{name}.qkv", (d, 3 * d), parts=3),
        *linear(f"{name}.out", (d, d), end),
        *norm(f"{name}.norm2", d),
        *linear(f"{name}.up", (d, hidden)),
        *linear(f"{name}.down", (hidden, d), end),
    ]

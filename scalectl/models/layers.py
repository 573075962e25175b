"""Layers by the names of their tensors, for families whose tables `models.tables` writes.

Legend as in `models.primitives`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from scalectl.models import primitives as p

ACTIVATIONS = {"gelu_tanh": p.gelu, "gelu": p.exact_gelu, "relu": p.relu}

Run = Callable[..., Tensor]
Views = Mapping[str, Tensor]


def linear(x: Tensor | p.Normed, views: Views, at: str, onto: Tensor | None = None) -> Tensor:
    """The matrix and the bias of that name, onto a residual where there is one."""
    return p.linear(x, views[f"{at}.weight"], views[f"{at}.bias"], onto)


def norm(x_KMD: Tensor, views: Views, at: str) -> p.Normed:
    """The layer norm of that name."""
    return p.layer_norm(x_KMD, views[f"{at}.scale"], views[f"{at}.shift"])


def mlp(x: Tensor | p.Normed, views: Views, at: str, activation: str, onto: Tensor) -> Tensor:
    """The MLP of the block of that name."""
    return linear(ACTIVATIONS[activation](linear(x, views, f"{at}.up")), views, f"{at}.down", onto)


def blocks(block: Run, x_KMD: Tensor, views: Views, stack: str, count: int, run: Run | None, *more: object) -> Tensor:
    """Through the blocks `stack0` to `stack{count - 1}`.

    Args: block: of (x, views, name, *more); run: calls a block, run(block, *arguments), where it is to be recomputed or
    compiled; None to call it plainly.
    """
    for layer in range(count):
        at = f"{stack}{layer}"
        if run is None:
            x_KMD = block(x_KMD, views, at, *more)
        else:  # by names that all layers share, so that one compiled block serves them
            own = {name.removeprefix(at): view for name, view in views.items() if name.startswith(f"{at}.")}
            x_KMD = run(block, x_KMD, own, "", *more)
    return x_KMD

"""The vision transformer's forward pass: a pure function of the tensors' views.

Legend: K models in the pack, B images, N pixels, W = N + 1 numbers of a sample, P patches, Q numbers of a patch,
T = P + 1 tokens, M = B T, D width, C classes.
"""

from __future__ import annotations

from torch import Tensor

from scalectl.models import primitives as p
from scalectl.models.layers import Run, Views, blocks, linear, mlp, norm
from scalectl.models.vit.spec import Options


def logits(views: Views, pixels_KBN: Tensor, o: Options, run: Run | None = None) -> Tensor:
    """Logits of the classes, shape (K, B, C).

    The class token comes last, where `last_tokens` finds it; attention knows an order by the positions alone.

    Args: views: tensors by name, each (K, *shape of spec.tensors); pixels_KBN: whole numbers from 0 to o.levels, by
    channel, row and column; run: as of `layers.blocks`.
    """
    B = pixels_KBN.shape[1]
    x_KMD = p.pixels(patches(pixels_KBN, o), views["patch.weight"], views["patch.bias"], o.levels)
    x_KMD = p.add_positions(p.append_token(x_KMD, views["class"], B), views["position"], B)
    x_KMD = blocks(_block, x_KMD, views, "layer", o.n_layer, run, o, B)
    return linear(norm(p.last_tokens(x_KMD, B, 1), views, "norm"), views, "head")


def token_losses(views: Views, samples_KBW: Tensor, o: Options, run: Run | None = None) -> Tensor:
    """Cross-entropy of every class [nats], shape (K, B). samples_KBW: the pixels of an image, and its class."""
    return p.token_losses(logits(views, samples_KBW[..., :-1], o, run), samples_KBW[..., -1])


def judge(views: Views, samples_KBW: Tensor, o: Options) -> tuple[Tensor, Tensor]:
    """`token_losses`, and whether each class is the most likely one."""
    return p.judged(logits(views, samples_KBW[..., :-1], o), samples_KBW[..., -1])


def patches(pixels_KBN: Tensor, o: Options) -> Tensor:
    """The patches of each image, row by row, each by channel, row and column: shape (K, B P, Q)."""
    K, B, _ = pixels_KBN.shape
    side = o.image // o.patch
    tiles = pixels_KBN.reshape(K, B, o.channels, side, o.patch, side, o.patch).permute(0, 1, 3, 5, 2, 4, 6)
    return tiles.reshape(K, B * o.patches, o.d_patch)


def _block(x_KMD: Tensor, views: Views, at: str, o: Options, B: int) -> Tensor:
    qkv = linear(norm(x_KMD, views, f"{at}.norm1"), views, f"{at}.qkv")
    x_KMD = linear(p.full_attention(qkv, B, o.n_head), views, f"{at}.out", onto=x_KMD)
    return mlp(norm(x_KMD, views, f"{at}.norm2"), views, at, o.activation, onto=x_KMD)

"""Models that know nothing of scalectl: what a user has, named in a sweep file as `own_models:NAME`."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn


class GatedConvolution(nn.Module):
    """Gated causal convolutions after Dauphin et al. 2017, tied to the embedding."""

    def __init__(self, vocab: int, width: int, depth: int = 2, kernel: int = 3, gate: Literal["glu", "tanh"] = "glu"):
        super().__init__()
        self.kernel, self.gate = kernel, gate
        self.embed = nn.Embedding(vocab, width)
        self.convs = nn.ModuleList(nn.Conv1d(width, 2 * width, kernel) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            mixed = conv(F.pad(norm(x).transpose(1, 2), (self.kernel - 1, 0))).transpose(1, 2)
            left, right = mixed.chunk(2, -1)
            x = x + (left * right.sigmoid() if self.gate == "glu" else left.tanh() * right.sigmoid())
        return self.head(self.norm(x))


class Recurrent(nn.Module):
    """A GRU or LSTM language model with an output head of its own."""

    def __init__(self, vocab: int, width: int, cell: Literal["gru", "lstm"] = "gru", device: str | None = None):
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.cell = (nn.GRU if cell == "gru" else nn.LSTM)(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab)

    def forward(self, tokens):
        return self.head(self.cell(self.embed(tokens))[0])


class Transformer(nn.Module):
    """torch's own encoder layers under a causal mask, positions from a table, functional head on the embedding."""

    def __init__(self, vocab: int, context: int, width: int, heads: int = 2, depth: int = 1, dropout: float = 0.0):
        super().__init__()
        self.embed, self.place = nn.Embedding(vocab, width), nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(context))

    def forward(self, tokens):
        T = tokens.shape[1]
        x = self.embed(tokens) + self.place(torch.arange(T, device=tokens.device))
        return F.linear(self.blocks(x, mask=self.mask[:T, :T]), self.embed.weight)


class Broken(nn.Module):
    """Everything that a model may not do, one thing at a time."""

    def __init__(self, vocab: int, width: int = 8, fault: str = ""):
        super().__init__()
        if fault == "raises":
            raise ValueError("width has to be odd")
        if fault == "slow":
            torch.linspace(0, 1, 3)[1].item()
        self.fault = fault
        self.embed = nn.Embedding(vocab, width)
        self.head = nn.Linear(width, vocab + (fault == "shape"))
        self.norm = nn.BatchNorm1d(width, affine=False, track_running_stats=fault == "running")
        self.extra = nn.Linear(width, width)
        self.shift = nn.Parameter(torch.zeros(width, dtype=torch.complex64 if fault == "complex" else None))
        if fault == "numpy":
            import numpy

            self.shift.data += float(numpy.random.default_rng().normal())

    def forward(self, tokens):
        x = self.embed(tokens) + self.shift
        if self.fault not in ("idle", "complex"):
            x = self.extra(x)
        if self.fault == "dropout":
            x = F.dropout(x, 0.1, self.training)
        if self.fault in ("running", "batch"):
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        if self.fault == "future":
            x = x + x.mean(1, keepdim=True)
        if self.fault == "infinite":
            x = x / 0
        logits = self.head(x)
        return (logits, None) if self.fault == "tuple" else logits


def no_module(vocab: int):
    return vocab


def without_type(width, vocab: int):
    return nn.Linear(width, vocab)


NOT_CALLABLE = 3

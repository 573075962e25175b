"""A GPT-2 as most people write it: torch.nn modules, AdamW, one loop, one run per process.

    python bench/plain_gpt2.py TRAIN.bin HELD_OUT.bin --seed 0

Both files are bytes. The peer of bench/engine.py (its model) and of bench/sixteen.py (the whole script).
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT2(nn.Module):
    """Logits (B, T, V) of tokens (B, T)."""

    def __init__(self, layers: int, width: int, heads: int, context: int, vocab: int = 256) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)
        self.head.weight = self.token.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens):
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def parameter_groups(model: nn.Module, decay: float = 0.1):
    """Weight decay on matrices alone."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("train")
    parser.add_argument("held_out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--warmup", type=int, default=40)
    parser.add_argument("--lr", type=float, default=0.02)
    given = parser.parse_args()

    torch.manual_seed(given.seed)
    T = given.context
    train = np.memmap(given.train, dtype=np.uint8, mode="r")
    held_out = torch.from_numpy(np.fromfile(given.held_out, dtype=np.uint8).astype(np.int64)).view(-1, T + 1)
    model = GPT2(given.layers, given.width, given.heads, T)
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=given.lr, betas=(0.9, 0.95), fused=True)

    def rate(step: int) -> float:
        if step < given.warmup:
            return given.lr * (step + 1) / (given.warmup + 1)
        return given.lr * 0.5 * (1 + math.cos(math.pi * (step - given.warmup) / (given.steps - given.warmup)))

    for step in range(given.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        begins = torch.randint(len(train) - T, (given.sequences,))
        tokens = torch.stack([torch.from_numpy(train[b : b + T + 1].astype(np.int64)) for b in begins])
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    model.eval()
    with torch.no_grad():
        losses = [
            F.cross_entropy(model(part[:, :-1]).flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
            for part in held_out.split(64)
        ]
    print(f"held-out loss {sum(losses).item() / held_out[:, 1:].numel():.4f}")


if __name__ == "__main__":
    main()

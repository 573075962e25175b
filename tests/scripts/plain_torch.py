"""A training script as people write them: a byte-level model in plain PyTorch that prints and knows of no sweep."""

import argparse
import inspect
import os

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=32)
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=120)
parser.add_argument("--out", default=".")
args = parser.parse_args()
torch.manual_seed(args.seed)
CONTEXT, BATCH = 8, 64
text = torch.tensor(list(inspect.getsource(argparse).encode()))
train, held_out = text[:-16_384], text[-16_384:]


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed = nn.Embedding(256, width)
        self.mix = nn.Linear(CONTEXT * width, 4 * width)
        self.head = nn.Linear(4 * width, 256)

    def forward(self, bytes_in):
        return self.head(F.gelu(self.mix(self.embed(bytes_in).flatten(1))))


def batch(data, size, generator):
    start = torch.randint(len(data) - CONTEXT, (size,), generator=generator)
    return torch.stack([data[i : i + CONTEXT] for i in start]), data[start + CONTEXT]


def evaluate(model):
    x, y = batch(held_out, 512, torch.Generator().manual_seed(1))
    with torch.no_grad():
        return F.cross_entropy(model(x), y).item()


model = Model(args.width)
optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
path, first = os.path.join(args.out, "checkpoint.pt"), 1
if os.path.exists(path):
    saved = torch.load(path)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first = saved["step"] + 1
print(f"{sum(p.numel() for p in model.parameters())} parameters, from step {first}")
for step in range(first, args.steps + 1):
    x, y = batch(train, BATCH, torch.Generator().manual_seed(1000 * args.seed + step))
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: train loss {loss.item():.4f}, val loss {evaluate(model):.6f}")
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, path + ".new")
        os.replace(path + ".new", path)

"""The plain peer is the engine's decoder: with copied weights it gives the same logits."""

import importlib.util

import torch
from support import REPOSITORY

from scalectl.models.decoder import forward
from scalectl.models.decoder.spec import Options, ledger
from scalectl.train import population as pop

OPTIONS = Options(d_model=16, n_layer=2, n_head=4, context=12, vocab=256)
PLACES = {"qkv": "attention.qkv", "out": "attention.out", "scale": "weight", "shift": "bias"}


def plain_name(name):
    """layer0.norm1.scale -> blocks.0.norm1.weight."""
    parts = [PLACES.get(part, part) for part in name.split(".")]
    if parts[0].startswith("layer"):
        parts[:1] = ["blocks", parts[0].removeprefix("layer")]
    return ".".join(parts) + (".weight" if len(parts) == 1 else "")


def test_the_plain_peer_computes_the_same_model():
    spec = importlib.util.spec_from_file_location("plain_gpt2", REPOSITORY / "bench/plain_gpt2.py")
    plain_gpt2 = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain_gpt2)
    table = ledger(OPTIONS).tensors
    row = pop.initial_row(table, seed=3).double()
    row += 0.05 * torch.randn(row.shape, generator=torch.Generator().manual_seed(0), dtype=row.dtype)  # biases too
    views = pop.Layout.of(table).views(row[None])
    module = plain_gpt2.GPT2(OPTIONS.n_layer, OPTIONS.d_model, OPTIONS.n_head, OPTIONS.context).double()
    own = dict(module.named_parameters())
    assert {plain_name(name) for name in views} == set(own)
    with torch.no_grad():
        for name, view in views.items():
            linear = name.endswith(("qkv.weight", "out.weight", "up.weight", "down.weight"))
            own[plain_name(name)].copy_(view[0].T if linear else view[0])
        tokens = torch.randint(256, (3, OPTIONS.context), generator=torch.Generator().manual_seed(1))
        theirs = module(tokens).flatten(0, 1)
        ours = forward.logits(views, tokens[None], OPTIONS)[0]
    torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-10)

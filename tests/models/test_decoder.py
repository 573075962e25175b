"""The decoder against independent implementations, and its ledger against what is really there."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scalectl.models import MODELS, primitives
from scalectl.models.decoder import forward
from scalectl.models.decoder.spec import Options, ledger, problems
from scalectl.train.population import Layout, initial_row

SMALL = Options(d_model=16, n_layer=2, n_head=4, context=12, vocab=19)
VARIANTS = [
    Options(16, 2, 4, 12, 19, position=position, norm=norm, bias=bias, tie=tie)
    for position, norm, bias, tie in itertools.product(
        ("learned", "sinusoidal", "rotary"), ("layer", "rms"), (True, False), (True, False)
    )
]
BLOCKS = [
    Options(16, 2, 4, 12, 19, norm_first=norm_first, activation=activation, window=window)
    for norm_first, activation, window in itertools.product((True, False), ("gelu_tanh", "gelu", "relu"), (0, 1, 5))
]


def views(o, seeds=(0,), dtype=torch.float64, std=None):
    tensors = ledger(o).tensors
    layout = Layout.of(tensors)
    matrix = torch.stack([initial_row(tensors, seed) for seed in seeds]).to(dtype)
    if std is not None:  # larger numbers than at initialisation, biases and scales included
        matrix = matrix + std * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return layout.views(matrix)


def tokens(o, k=1, batch=3, length=None, seed=0):
    return torch.randint(o.vocab, (k, batch, length or o.context), generator=torch.Generator().manual_seed(seed))


def test_logits_equal_hugging_face_gpt2_with_copied_weights():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=SMALL.vocab,
        n_positions=SMALL.context,
        n_embd=SMALL.d_model,
        n_layer=SMALL.n_layer,
        n_head=SMALL.n_head,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        use_cache=False,
    )
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    names = {"norm.scale": "ln_f.weight", "norm.shift": "ln_f.bias", "token": "wte.weight", "position": "wpe.weight"}
    for layer in range(SMALL.n_layer):
        parts = {"norm1": "ln_1", "qkv": "attn.c_attn", "out": "attn.c_proj", "norm2": "ln_2", "up": "mlp.c_fc"}
        for ours, part in (parts | {"down": "mlp.c_proj"}).items():
            weight, bias = ("scale", "shift") if ours.startswith("norm") else ("weight", "bias")
            names[f"layer{layer}.{ours}.{weight}"] = f"h.{layer}.{part}.weight"
            names[f"layer{layer}.{ours}.{bias}"] = f"h.{layer}.{part}.bias"
    ours = views(SMALL, std=0.3)
    parameters = dict(theirs.transformer.named_parameters())
    assert set(names) == set(ours)
    assert set(names.values()) == set(parameters)
    with torch.no_grad():
        for mine, other in names.items():
            parameters[other].copy_(ours[mine][0])
        batch = tokens(SMALL)
        expected = theirs(batch[0]).logits.reshape(1, -1, SMALL.vocab)
        found = forward.logits(ours, batch, SMALL)
    assert (found - expected).abs().max() < 1e-10
    assert expected.abs().max() > 1


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("window", [0, 5])
def test_logits_equal_torch_encoder_layers_with_copied_weights(norm_first, activation, window):
    o = Options(16, 2, 4, 12, 19, norm_first=norm_first, activation=activation, window=window, d_ff=40)
    ours = views(o, std=0.3)
    layer = torch.nn.TransformerEncoderLayer(
        16, 4, 40, 0.0, activation, batch_first=True, norm_first=norm_first, dtype=torch.float64
    )
    norm = torch.nn.LayerNorm(16, dtype=torch.float64) if norm_first else None
    theirs = torch.nn.TransformerEncoder(layer, o.n_layer, norm, enable_nested_tensor=False)
    parts = {"qkv": "self_attn.in_proj_", "out": "self_attn.out_proj.", "up": "linear1.", "down": "linear2."}
    names = {"norm.scale": "norm.weight", "norm.shift": "norm.bias"} if norm_first else {}
    for at in range(o.n_layer):
        for mine, other in (parts | {"norm1": "norm1.", "norm2": "norm2."}).items():
            weight, bias = ("scale", "shift") if mine.startswith("norm") else ("weight", "bias")
            names[f"layer{at}.{mine}.{weight}"] = f"layers.{at}.{other}weight"
            names[f"layer{at}.{mine}.{bias}"] = f"layers.{at}.{other}bias"
    parameters = dict(theirs.named_parameters())
    assert set(names) == set(ours) - {"token", "position"}
    assert set(names.values()) == set(parameters)
    batch = tokens(o)
    with torch.no_grad():
        for mine, other in names.items():
            held = ours[mine][0]
            parameters[other].copy_(held.T if held.dim() == 2 else held)
        seen = torch.ones(12, 12, dtype=torch.bool).tril()
        if window:
            seen = seen.triu(1 - window)
        x = ours["token"][0][batch[0]] + ours["position"][0]
        expected = (theirs(x, mask=~seen) @ ours["token"][0].T).view(1, -1, o.vocab)
        found = forward.logits(ours, batch, o)
    assert (found - expected).abs().max() < 1e-10
    assert expected.abs().max() > 1


@pytest.mark.parametrize("T", [7, 96, 160])
@pytest.mark.parametrize("E", [8, 16])
@pytest.mark.parametrize("window", [1, 5, 33, 64, 70])
def test_a_window_equals_dense_attention_under_a_band_mask_and_so_do_its_gradients(E, T, window):
    H, N = 3, 2
    qkv = torch.randn(1, N * T, 3 * H * E, dtype=torch.float64, generator=torch.Generator().manual_seed(T))
    slope = torch.linspace(-1, 1, N * T * H * E, dtype=torch.float64).view(1, N * T, H * E)
    ours, dense = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    found = primitives.causal_attention(ours, N, H, window=window)
    q, k, v = dense.view(N, T, 3, H, E).permute(2, 0, 3, 1, 4).unbind(0)
    band = torch.ones(T, T, dtype=torch.bool).tril().triu(1 - window)
    scores = (q @ k.mT / math.sqrt(E)).masked_fill(~band, -math.inf)
    expected = (scores.softmax(-1) @ v).transpose(1, 2).reshape(1, N * T, H * E)
    found.backward(slope)
    expected.backward(slope)
    assert (found - expected).abs().max() < 1e-12
    assert (ours.grad - dense.grad).abs().max() < 1e-12


@pytest.mark.parametrize("T", [7, 96])
@pytest.mark.parametrize("E", [8, 16])
def test_attention_equals_the_formula_and_torch_multihead_attention(E, T):
    H, N = 3, 2
    D = H * E
    mha = torch.nn.MultiheadAttention(D, H, batch_first=True, dtype=torch.float64)
    x = torch.randn(N, T, D, dtype=torch.float64)
    mask = torch.ones(T, T, dtype=torch.bool).triu(1)
    with torch.no_grad():
        expected, _ = mha(x, x, x, attn_mask=mask)
        qkv = x @ mha.in_proj_weight.T + mha.in_proj_bias
        mixed = primitives.causal_attention(qkv.view(1, N * T, 3 * D), N, H)
        found = mixed.view(N, T, D) @ mha.out_proj.weight.T + mha.out_proj.bias
        q, k, v = qkv.view(N, T, 3, H, E).permute(2, 0, 3, 1, 4).unbind(0)
        formula = (q @ k.mT / math.sqrt(E)).masked_fill(mask, -math.inf).softmax(-1) @ v
    assert (found - expected).abs().max() < 1e-12
    assert (mixed - formula.transpose(1, 2).reshape(1, N * T, D)).abs().max() < 1e-12


def test_attention_in_half_precision_is_near_the_exact_one():
    qkv = torch.randn(2, 3 * 96, 3 * 24, generator=torch.Generator().manual_seed(3)).bfloat16()
    exact = primitives.causal_attention(qkv.double(), 3, 3)
    assert (primitives.causal_attention(qkv, 3, 3).double() - exact).abs().max() < 0.02


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device, so that what other devices compute can be compared here."""

    is_cpu = False


@pytest.mark.parametrize("o", VARIANTS[::3] + BLOCKS, ids=str)
def test_other_devices_compute_what_the_cpu_computes(o, monkeypatch):
    batch = tokens(o, k=2, length=o.context + 1)
    found = []
    for kind, layers in ((torch.Tensor, primitives.cpu), (Elsewhere, None)):
        monkeypatch.setattr(primitives, "cpu", layers)
        held = {name: view.as_subclass(kind).requires_grad_() for name, view in views(o, (0, 1), std=0.3).items()}
        losses = forward.token_losses(held, batch, o)
        assert isinstance(losses, kind)
        losses.sum().backward()
        found.append([losses.detach(), *(view.grad for view in held.values())])
    for here, there in zip(*found, strict=True):
        assert (here - there).abs().max() < 1e-11 * here.abs().max()


@pytest.mark.parametrize("o", VARIANTS + BLOCKS, ids=str)
def test_every_variant_is_causal_and_its_ledger_counts_what_is_there(o):
    held = views(o, std=0.3)
    assert ledger(o).params("total") == sum(view[0].numel() for view in held.values())
    first = tokens(o, batch=1)
    later = first.clone()
    later[..., 7] = (later[..., 7] + 1) % o.vocab
    a, b = (forward.logits(held, batch, o) for batch in (first, later))
    assert torch.equal(a[:, :7], b[:, :7])
    assert not torch.equal(a[:, 7], b[:, 7])


@pytest.mark.parametrize("o", VARIANTS[::5] + BLOCKS[::4], ids=str)
def test_flops_equal_torch_flop_counter(o):
    """Forward on the meta device, where no fused kernel hides its products; the backward costs twice the forward."""
    held = {name: view.to("meta") for name, view in views(o).items()}
    batch = tokens(o, batch=5).to("meta")
    with FlopCounterMode(display=False) as counter:
        forward.logits(held, batch, o)
    assert 3 * counter.get_total_flops() == ledger(o).flops_per_token() * batch.numel()


ANSWERS = [
    Options(16, 2, 4, 12, 19, answers=4, **changed)
    for changed in ({}, {"norm_first": False}, {"tie": False, "norm": "rms", "position": "rotary"})
]


@pytest.mark.parametrize("o", ANSWERS, ids=str)
def test_answers_are_the_last_targets_with_the_losses_that_they_have_among_all(o):
    held, batch = views(o, (0, 1), std=0.3), tokens(o, k=2, length=o.context + 1)
    every = dataclasses.replace(o, answers=0)
    whole = forward.token_losses(held, batch, every).view(2, 3, o.context)[:, :, -4:].flatten(1)
    assert torch.equal(forward.token_losses(held, batch, o), whole)
    losses, right = forward.judge(held, batch, o)
    guess = forward.logits(held, batch[..., :-1], every).view(2, 3, o.context, -1)[:, :, -4:].argmax(-1)
    assert torch.equal(losses, whole)
    assert torch.equal(right, (guess == batch[..., -4:]).flatten(1))
    held = {name: view.requires_grad_() for name, view in held.items()}
    mine, theirs = (
        torch.autograd.grad(forward.token_losses(held, batch, options).view(2, 3, -1)[:, :, -4:].sum(), held.values())
        for options in (o, every)
    )
    for one, other in zip(mine, theirs, strict=True):
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()


@pytest.mark.parametrize("o", ANSWERS, ids=str)
def test_the_head_reads_answers_alone_and_the_ledger_counts_that(o):
    held = {name: view.to("meta") for name, view in views(o).items()}
    batch = tokens(o, batch=5).to("meta")
    with FlopCounterMode(display=False) as counter:
        forward.logits(held, batch, o)
    assert 3 * counter.get_total_flops() == pytest.approx(ledger(o).flops_per_token() * batch.numel(), rel=1e-12)
    every = ledger(dataclasses.replace(o, answers=0)).flops_per_token()
    assert every - ledger(o).flops_per_token() == pytest.approx(6 * o.vocab * o.d_model * (12 - 4) / 12)


GENERATORS = [
    Options(16, 2, 4, 12, 19, position=position, norm_first=norm_first, window=window)
    for position, norm_first, window in itertools.product(("learned", "sinusoidal", "rotary"), (True, False), (0, 1, 5))
]


@pytest.mark.parametrize("o", GENERATORS, ids=str)
def test_cached_decoding_equals_the_full_forward_pass(o, monkeypatch):
    held, prompts, answers = views(o, (0, 1), std=0.5), tokens(o, k=2, batch=6, length=5), 8
    seen, read = [], forward._read

    def recorded(*arguments):
        seen.append(read(*arguments))
        return seen[-1]

    monkeypatch.setattr(forward, "_read", recorded)
    written = forward.generate(held, prompts, answers, o)
    monkeypatch.undo()
    assert written.shape == (2, 6, answers)
    assert len(seen) == answers
    whole = torch.cat([prompts, written], dim=2)
    full = forward.logits(held, whole[..., :-1], o).view(2, 6, o.context, o.vocab)[:, :, -answers:]
    assert (torch.stack(seen, dim=2) - full).abs().max() < 1e-11 * full.abs().max()
    assert torch.equal(written, full.argmax(-1))


def test_training_costs_three_forwards():
    held = {name: view.to("meta").requires_grad_() for name, view in views(SMALL).items()}
    batch = tokens(SMALL, length=SMALL.context + 1).to("meta")
    with FlopCounterMode(display=False) as counter:
        forward.token_losses(held, batch, SMALL).sum().backward()
    assert counter.get_total_flops() == ledger(SMALL).flops_per_token() * batch.shape[1] * SMALL.context


def test_conventions_of_n_follow_their_definitions():
    o = SMALL
    d, layers = o.d_model, o.n_layer
    matrices = layers * 12 * d**2
    vectors = layers * (9 * d + 4 * d) + 2 * d
    assert ledger(o).params("non_embedding") == matrices + vectors
    assert ledger(o).params("total") == matrices + vectors + (o.vocab + o.context) * d
    assert ledger(o).params("matmul") == matrices + o.vocab * d
    untied = Options(d, layers, o.n_head, o.context, o.vocab, tie=False)
    assert ledger(untied).params("non_embedding") == matrices + vectors
    assert ledger(untied).params("matmul") == matrices + o.vocab * d
    assert ledger(o).flops_per_token() == 6 * (matrices + o.vocab * d) + 12 * layers * d * o.context


@pytest.mark.parametrize("width", [8, 32, 128])
@pytest.mark.parametrize("changed", [{}, {"norm_first": False}, {"activation": "relu", "window": 16}], ids=str)
def test_loss_at_initialisation_is_that_of_a_uniform_guess(width, changed):
    o = Options(width, 2, 4, 96, 256, **changed)
    losses = forward.token_losses(views(o, dtype=torch.float32), tokens(o, batch=8, length=97), o)
    assert abs(losses.mean().item() - math.log(256)) < 0.05


def test_rotary_scores_depend_on_distance_alone():
    q, k = torch.randn(2, 1, 1, 6, 8, dtype=torch.float64).unbind(0)
    cos, sin = primitives.rotary_turns(1006, 8, torch.float64, torch.device("cpu"))

    def scores(shift):
        turns = cos[shift : shift + 6], sin[shift : shift + 6]
        q_turned, k_turned = (torch.cat(primitives.turned(x, *turns), dim=-1) for x in (q, k))
        return q_turned @ k_turned.mT

    assert (scores(0) - scores(1000)).abs().max() < 1e-9


def test_sinusoidal_positions_are_those_of_the_paper():
    table = primitives.sinusoid(5, 6, torch.float64, torch.device("cpu"))
    assert table[3, 2].item() == pytest.approx(math.sin(3 / 10_000 ** (2 / 6)))
    assert table[3, 5].item() == pytest.approx(math.cos(3 / 10_000 ** (4 / 6)))


def test_bad_combinations_name_the_key_and_what_would_do():
    assert problems(Options(100, 2, 8, 96, 256)) == [("d_model", "100 is not a multiple of n_head = 8; use 96 or 104")]
    assert problems(Options(12, 2, 4, 96, 256, position="rotary"))[0][0] == "d_model"
    assert {key for key, _ in problems(Options(0, 0, 4, 96, 256))} == {"d_model", "n_layer"}
    assert problems(Options(16, 2, 4, 96, 256, window=96)) == [
        ("window", "96 is no part of context = 96; 0 means all of it")
    ]
    assert problems(Options(16, 2, 4, 3, 19, answers=4)) == [
        ("context", "3 is less than the 4 answer tokens of the task")
    ]
    assert problems(SMALL) == []


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_decayed_tensors_are_matrices(model):
    own = {"d_model": 16, "n_layer": 2, "n_head": 4, "width": 16, "patch": 2}
    given = {"context": 12, "answers": 1, "vocab": 19, "image": 8, "channels": 1, "levels": 16, "classes": 10}
    known = {name: held for name, held in (own | given).items() if name in model.options.__dataclass_fields__}
    tensors = model.ledger(model.options(**known)).tensors
    assert all(len(t.shape) == 2 for t in tensors if t.decay)
    assert all(t.decay for t in tensors if len(t.shape) == 2)
    assert len({t.name for t in tensors}) == len(tensors)

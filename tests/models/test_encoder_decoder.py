"""The encoder-decoder against independent implementations, and its ledger against what is really there."""

import itertools
import math

import pytest
import torch
from packed import (
    assert_other_devices_agree,
    assert_packs_equal_solos,
    gradients,
    overfitted,
    tape_gradients,
    training_flops,
    views,
)

from scalectl.models.encoder_decoder import forward
from scalectl.models.encoder_decoder.spec import Options, ledger, problems, tensors

SMALL = Options(16, 2, 4, context=11, answers=5, vocab=19)
VARIANTS = [
    Options(16, 2, 4, 11, 5, 19, position=position, norm_first=norm_first, activation=activation)
    for position, norm_first, activation in itertools.product(
        ("learned", "sinusoidal"), (True, False), ("gelu", "relu")
    )
] + [
    Options(24, 1, 3, 20, 1, 8, n_encoder=3, tie=False),
    Options(16, 1, 2, 9, 8, 8, n_decoder=2, d_ff=24, position="sinusoidal"),
]


def sequences(o, k=1, batch=3, seed=0):
    return torch.randint(o.vocab, (k, batch, o.context + 1), generator=torch.Generator().manual_seed(seed))


def torch_stack(ours, o, stack):
    """A stack of torch's own layers with copied weights."""
    cross = stack == "decoder"
    layers = torch.nn.TransformerDecoderLayer if cross else torch.nn.TransformerEncoderLayer
    options = {"batch_first": True, "norm_first": o.norm_first, "dtype": torch.float64}
    layer = layers(o.d_model, o.n_head, o.d_hidden, 0.0, o.activation, **options)
    norm = torch.nn.LayerNorm(o.d_model, dtype=torch.float64) if o.norm_first else None
    if cross:
        theirs = torch.nn.TransformerDecoder(layer, o.decoders, norm)
    else:
        theirs = torch.nn.TransformerEncoder(layer, o.encoders, norm, enable_nested_tensor=False)
    parts = {"qkv": "self_attn.in_proj_", "out": "self_attn.out_proj.", "up": "linear1.", "down": "linear2."}
    parts |= {"norm1": "norm1.", "norm2": "norm2."}
    if cross:
        parts |= {"norm2": "norm3.", "cross.norm": "norm2.", "cross.out": "multihead_attn.out_proj."}
    copied = {}
    for at in range(o.decoders if cross else o.encoders):
        own, there = f"{stack}{at}", f"layers.{at}"
        for mine, other in parts.items():
            weight, bias = ("scale", "shift") if "norm" in mine else ("weight", "bias")
            copied[f"{there}.{other}weight"] = ours[f"{own}.{mine}.{weight}"][0].t()
            copied[f"{there}.{other}bias"] = ours[f"{own}.{mine}.{bias}"][0]
        if cross:
            for kind in ("weight", "bias"):
                joined = torch.cat([ours[f"{own}.cross.{part}.{kind}"][0] for part in ("q", "kv")], dim=-1)
                copied[f"{there}.multihead_attn.in_proj_{kind}"] = joined.t()
    if o.norm_first:
        copied |= {"norm.weight": ours[f"{stack}.norm.scale"][0], "norm.bias": ours[f"{stack}.norm.shift"][0]}
    theirs.load_state_dict(copied)
    return theirs


def embedded(ours, tokens_BT, o, stack):
    x = ours["token"][0][tokens_BT]
    if o.position == "learned":
        return x + ours[f"{stack}.position"][0][: tokens_BT.shape[1]]
    place = torch.arange(tokens_BT.shape[1], dtype=torch.float64)[:, None]
    angle = place / 10_000 ** (torch.arange(0, o.d_model, 2) / o.d_model).double()
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)
    return x + table


@pytest.mark.parametrize("o", [v for v in VARIANTS if v.activation != "gelu_tanh"], ids=str)
def test_logits_equal_torch_encoder_and_decoder_layers_with_copied_weights(o):
    ours, batch = views(tensors(o), std=0.3), sequences(o)
    prompt, begun = batch[0, :, : o.prompt], batch[0, :, o.prompt - 1 : -1]
    mask = torch.ones(o.answers, o.answers, dtype=torch.bool).triu(1)
    with torch.no_grad():
        memory = torch_stack(ours, o, "encoder")(embedded(ours, prompt, o, "encoder"))
        x = torch_stack(ours, o, "decoder")(embedded(ours, begun, o, "decoder"), memory, tgt_mask=mask)
        expected = (x @ ours["token" if o.tie else "head"][0].T).view(1, -1, o.vocab)
        found = forward.logits(ours, batch, o)
    assert (found - expected).abs().max() < 1e-10
    assert expected.abs().max() > 1


@pytest.mark.parametrize("o", VARIANTS, ids=str)
def test_gradients_are_those_of_autograd_through_layers_of_torch(o, monkeypatch):
    held, batch = views(tensors(o), (0, 1), std=0.3), sequences(o, k=2)
    assert_other_devices_agree(monkeypatch, forward.token_losses, held, batch, o)
    taped, plain = (way(forward.token_losses, held, batch, o) for way in (tape_gradients, gradients))
    assert all(torch.equal(a, b) for a, b in zip(taped, plain, strict=True))
    assert all(found.abs().max() > 0 for found in taped)


@pytest.mark.parametrize("k", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "o",
    [
        Options(16, 2, 4, context=11, answers=5, vocab=20),
        Options(32, 1, 2, context=40, answers=7, vocab=12, norm_first=False, position="sinusoidal", tie=False),
    ],
    ids=str,
)
def test_a_pack_equals_its_rows_alone_bit_for_bit(o, dtype, k):
    assert_packs_equal_solos(forward.token_losses, tensors(o), sequences(o, k, batch=32), o, dtype)


@pytest.mark.parametrize("o", VARIANTS, ids=str)
def test_flops_equal_torch_flop_counter(o):
    counted = training_flops(forward.token_losses, tensors(o), sequences(o, batch=6), o)
    assert ledger(o).flops_per_token() * 6 * o.context == pytest.approx(counted, rel=1e-14)


def test_conventions_of_n_follow_their_definitions():
    o, d = SMALL, SMALL.d_model
    matrices = o.n_layer * (12 * d**2 + 16 * d**2)
    vectors = o.n_layer * (13 * d + (13 * d + 6 * d)) + 4 * d
    assert ledger(o).params("non_embedding") == matrices + vectors
    assert ledger(o).params("total") == matrices + vectors + (o.vocab + o.context + 1) * d
    assert ledger(o).params("matmul") == matrices + o.vocab * d
    assert ledger(o).params("total") == sum(view[0].numel() for view in views(tensors(o)).values())


def test_the_paper_has_six_blocks_in_each_stack_and_65_million_parameters():
    """Table 3 of Vaswani et al. 2017: base, 65 million; 37,000 tokens; no biases of attention are said."""
    base = Options(512, 6, 8, 511, 256, 37_000, position="sinusoidal", norm_first=False, activation="relu", d_ff=2048)
    assert ledger(base).params("total") == pytest.approx(65e6, rel=0.03)


def test_an_answer_is_causal_and_the_whole_prompt_is_seen():
    o = SMALL
    held, batch = views(tensors(o), std=0.3), sequences(o, batch=1)
    whole = forward.logits(held, batch, o)
    for place, kept in ((o.prompt + 1, 2), (o.prompt + 3, 4)):
        later = batch.clone()
        later[..., place] = (later[..., place] + 1) % o.vocab
        changed = forward.logits(held, later, o)
        assert torch.equal(changed[:, :kept], whole[:, :kept])
        assert not torch.equal(changed[:, kept], whole[:, kept])
    for place in range(o.prompt):
        other = batch.clone()
        other[..., place] = (other[..., place] + 1) % o.vocab
        assert not torch.equal(forward.logits(held, other, o)[:, 0], whole[:, 0])


@pytest.mark.parametrize("width", [8, 32, 128])
@pytest.mark.parametrize("changed", [{}, {"position": "sinusoidal", "norm_first": False}], ids=str)
def test_loss_at_initialisation_is_that_of_a_uniform_guess(width, changed):
    o = Options(width, 2, 4, 31, 8, 64, **changed)
    losses = forward.token_losses(views(tensors(o), dtype=torch.float32), sequences(o, batch=64), o)
    assert abs(losses.mean().item() - math.log(64)) < 0.05


def test_one_batch_overfits():
    assert overfitted(forward.token_losses, tensors(SMALL), sequences(SMALL, batch=8), SMALL, 200, 1e-2) < 1e-2


def test_generated_answers_are_the_most_likely_tokens_one_after_another():
    o, batch = SMALL, sequences(SMALL, k=2)
    held = views(tensors(o), (0, 1), std=0.3)
    written = forward.generate(held, batch[..., : o.prompt], o.answers, o)
    whole = torch.cat([batch[..., : o.prompt], written], dim=-1)
    losses, right = forward.judge(held, whole, o)
    assert right.all()
    assert torch.equal(losses, forward.token_losses(held, whole, o))


def test_bad_combinations_name_the_key_and_what_would_do():
    assert problems(SMALL) == []
    assert problems(Options(18, 1, 4, 9, 4, 8)) == [("d_model", "18 is not a multiple of n_head = 4; use 16 or 20")]
    assert problems(Options(9, 1, 3, 9, 4, 8, position="sinusoidal"))[0][0] == "d_model"
    assert problems(Options(8, 1, 2, 9, 4, 8, n_encoder=-1)) == [("n_encoder", "-1 is negative; 0 means n_layer")]
    assert [key for key, _ in problems(Options(0, 0, 1, 9, 4, 8))] == ["d_model", "n_layer"]

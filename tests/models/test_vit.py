"""The vision transformer against independent implementations, and its ledger against what is really there."""

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

from scalectl.models.layers import ACTIVATIONS
from scalectl.models.vit import forward
from scalectl.models.vit.spec import Options, ledger, problems, tensors

GREY = Options(16, 2, 4, patch=2, image=8, channels=1, levels=16, classes=10)
COLOUR = Options(24, 3, 2, patch=4, image=12, channels=3, levels=255, classes=7, d_ff=40, activation="relu")
SMOOTH = Options(16, 1, 2, patch=8, image=8, channels=2, levels=1, classes=3, activation="gelu_tanh")
ALL = [GREY, COLOUR, SMOOTH]


def samples(o, k=1, batch=5, seed=0):
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(o.levels + 1, (k, batch, o.channels * o.image**2), generator=draw)
    return torch.cat([pixels, torch.randint(o.classes, (k, batch, 1), generator=draw)], dim=-1)


def images(batch, o):
    """The first model's images as torch has them, their numbers from -1 to 1."""
    pixels = batch[0, :, :-1].double() * (2 / o.levels) - 1
    return pixels.view(-1, o.channels, o.image, o.image)


def kernel(ours, o):
    """The map of patches as the kernel of a convolution."""
    return ours["patch.weight"][0].T.reshape(o.d_model, o.channels, o.patch, o.patch)


@pytest.mark.parametrize("o", ALL, ids=str)
def test_the_map_of_patches_equals_a_strided_convolution(o):
    ours, batch = views(tensors(o), std=0.3), samples(o)
    conv = torch.nn.Conv2d(o.channels, o.d_model, o.patch, stride=o.patch, dtype=torch.float64)
    with torch.no_grad():
        conv.weight.copy_(kernel(ours, o))
        conv.bias.copy_(ours["patch.bias"][0])
        expected = conv(images(batch, o)).flatten(2).transpose(1, 2)
        found = forward.p.pixels(
            forward.patches(batch[..., :-1], o), ours["patch.weight"], ours["patch.bias"], o.levels
        )
    assert (found.view_as(expected) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("o", [GREY, COLOUR], ids=str)
def test_logits_equal_hugging_face_vit_with_copied_weights(o):
    transformers = pytest.importorskip("transformers", "5")  # where its parameters have these names
    config = transformers.ViTConfig(
        hidden_size=o.d_model,
        num_hidden_layers=o.n_layer,
        num_attention_heads=o.n_head,
        intermediate_size=o.d_hidden,
        hidden_act=o.activation,
        hidden_dropout_prob=0,
        attention_probs_dropout_prob=0,
        layer_norm_eps=1e-5,
        image_size=o.image,
        patch_size=o.patch,
        num_channels=o.channels,
        num_labels=o.classes,
    )
    theirs = transformers.ViTForImageClassification(config).double().eval()
    ours, batch = views(tensors(o), std=0.3), samples(o)
    position = ours["position"][0].roll(1, 0)  # their class token comes first
    copied = {
        "vit.embeddings.cls_token": ours["class"][0].view(1, 1, -1),
        "vit.embeddings.position_embeddings": position.unsqueeze(0),
        "vit.embeddings.patch_embeddings.projection.weight": kernel(ours, o),
        "vit.embeddings.patch_embeddings.projection.bias": ours["patch.bias"][0],
        "vit.layernorm.weight": ours["norm.scale"][0],
        "vit.layernorm.bias": ours["norm.shift"][0],
        "classifier.weight": ours["head.weight"][0].T,
        "classifier.bias": ours["head.bias"][0],
    }
    for layer in range(o.n_layer):
        at, there = f"layer{layer}", f"vit.layers.{layer}"
        for mine, other in (("norm1", "layernorm_before"), ("norm2", "layernorm_after")):
            copied[f"{there}.{other}.weight"] = ours[f"{at}.{mine}.scale"][0]
            copied[f"{there}.{other}.bias"] = ours[f"{at}.{mine}.shift"][0]
        for mine, other in (("out", "attention.o_proj"), ("up", "mlp.fc1"), ("down", "mlp.fc2")):
            copied[f"{there}.{other}.weight"] = ours[f"{at}.{mine}.weight"][0].T
            copied[f"{there}.{other}.bias"] = ours[f"{at}.{mine}.bias"][0]
        for i, other in enumerate(("q_proj", "k_proj", "v_proj")):
            copied[f"{there}.attention.{other}.weight"] = ours[f"{at}.qkv.weight"][0].chunk(3, 1)[i].T
            copied[f"{there}.attention.{other}.bias"] = ours[f"{at}.qkv.bias"][0].chunk(3)[i]
    theirs.load_state_dict(copied)
    with torch.no_grad():
        expected = theirs(images(batch, o)).logits
        found = forward.logits(ours, batch[..., :-1], o)[0]
    assert (found - expected).abs().max() < 1e-10
    assert expected.abs().max() > 1


@pytest.mark.parametrize("o", [GREY, COLOUR], ids=str)
def test_logits_equal_torch_encoder_layers_with_copied_weights(o):
    ours, batch = views(tensors(o), std=0.3), samples(o)
    layer = torch.nn.TransformerEncoderLayer(
        o.d_model, o.n_head, o.d_hidden, 0.0, o.activation, batch_first=True, norm_first=True, dtype=torch.float64
    )
    norm = torch.nn.LayerNorm(o.d_model, dtype=torch.float64)
    encoder = torch.nn.TransformerEncoder(layer, o.n_layer, norm, enable_nested_tensor=False)
    copied = {"norm.weight": ours["norm.scale"][0], "norm.bias": ours["norm.shift"][0]}
    parts = {"qkv": "self_attn.in_proj_", "out": "self_attn.out_proj.", "up": "linear1.", "down": "linear2."}
    for at in range(o.n_layer):
        for mine, other in (parts | {"norm1": "norm1.", "norm2": "norm2."}).items():
            weight, bias = ("scale", "shift") if mine.startswith("norm") else ("weight", "bias")
            copied[f"layers.{at}.{other}weight"] = ours[f"layer{at}.{mine}.{weight}"][0].t()
            copied[f"layers.{at}.{other}bias"] = ours[f"layer{at}.{mine}.{bias}"][0]
    encoder.load_state_dict(copied)
    with torch.no_grad():
        patches = torch.nn.functional.conv2d(images(batch, o), kernel(ours, o), ours["patch.bias"][0], o.patch)
        token = ours["class"][0].expand(len(patches), 1, -1)
        x = torch.cat([token, patches.flatten(2).transpose(1, 2)], dim=1) + ours["position"][0].roll(1, 0)
        expected = encoder(x)[:, 0] @ ours["head.weight"][0] + ours["head.bias"][0]
        found = forward.logits(ours, batch[..., :-1], o)[0]
    assert (found - expected).abs().max() < 1e-10
    assert expected.abs().max() > 1


@pytest.mark.parametrize("o", ALL, ids=str)
def test_gradients_are_those_of_autograd_through_layers_of_torch(o, monkeypatch):
    held, batch = views(tensors(o), (0, 1), std=0.3), samples(o, k=2)
    assert_other_devices_agree(monkeypatch, forward.token_losses, held, batch, o)
    taped, plain = (way(forward.token_losses, held, batch, o) for way in (tape_gradients, gradients))
    assert all(torch.equal(a, b) for a, b in zip(taped, plain, strict=True))
    assert all(found.abs().max() > 0 for found in taped)


@pytest.mark.parametrize("k", [2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "o",
    [
        Options(16, 2, 4, patch=2, image=8, channels=1, levels=16, classes=16),
        Options(32, 1, 2, patch=4, image=8, channels=2, levels=3, classes=4, activation="relu"),
    ],
    ids=str,
)
def test_a_pack_equals_its_rows_alone_bit_for_bit(o, dtype, k):
    assert_packs_equal_solos(forward.token_losses, tensors(o), samples(o, k, batch=32), o, dtype)


@pytest.mark.parametrize("o", ALL, ids=str)
def test_flops_equal_torch_flop_counter(o):
    counted = training_flops(forward.token_losses, tensors(o), samples(o, batch=6), o)
    assert ledger(o).flops_per_token() * 6 * o.context == pytest.approx(counted, rel=1e-14)


def test_conventions_of_n_follow_their_definitions():
    o, d = GREY, GREY.d_model
    blocks = o.n_layer * (12 * d**2 + 9 * d + 4 * d) + 2 * d
    ends = (4 * d + d) + d + 17 * d + (d * 10 + 10)
    assert ledger(o).params("non_embedding") == blocks
    assert ledger(o).params("total") == blocks + ends
    assert ledger(o).params("matmul") == o.n_layer * 12 * d**2 + 4 * d + d * 10
    assert ledger(o).params("total") == sum(view[0].numel() for view in views(tensors(o)).values())


@pytest.mark.parametrize("width", [8, 32, 128])
def test_loss_at_initialisation_is_that_of_a_uniform_guess(width):
    o = Options(width, 2, 4, patch=2, image=8, channels=1, levels=16, classes=10)
    losses = forward.token_losses(views(tensors(o), dtype=torch.float32), samples(o, batch=64), o)
    assert abs(losses.mean().item() - math.log(10)) < 0.05


def test_one_batch_overfits():
    o = Options(32, 2, 4, patch=2, image=8, channels=1, levels=16, classes=10)
    assert overfitted(forward.token_losses, tensors(o), samples(o, batch=16), o, 200, 1e-2) < 1e-2


def test_the_order_of_patches_is_known_by_positions_alone():
    o = GREY
    held, batch = views(tensors(o), std=0.3), samples(o)
    turned = batch.clone()
    turned[..., :-1] = batch[..., :-1].view(1, -1, 8, 8).flip(2).reshape(1, -1, 64)
    without = {**held, "position": torch.zeros_like(held["position"])}
    flat = {**without, "patch.weight": held["patch.weight"][:, :1].expand(-1, 4, -1)}  # blind to order within a patch
    before, after = (forward.logits(flat, pixels[..., :-1], o) for pixels in (batch, turned))
    assert (before - after).abs().max() < 1e-12
    before, after = (forward.logits({**flat, "position": held["position"]}, x[..., :-1], o) for x in (batch, turned))
    assert (before - after).abs().max() > 1e-3


def test_judging_tells_the_loss_and_whether_the_class_is_the_most_likely():
    o, batch = GREY, samples(GREY, k=2)
    held = views(tensors(o), (0, 1), std=0.3)
    losses, right = forward.judge(held, batch, o)
    assert torch.equal(losses, forward.token_losses(held, batch, o))
    assert torch.equal(right, forward.logits(held, batch[..., :-1], o).argmax(-1) == batch[..., -1])


def test_bad_combinations_name_the_key_and_what_would_do():
    assert problems(GREY) == []
    wrong = Options(18, 2, 4, patch=3, image=8, channels=1, levels=16, classes=10)
    assert problems(wrong) == [
        ("d_model", "18 is not a multiple of n_head = 4; use 16 or 20"),
        ("patch", "3 does not divide the side of the images; use one of 1, 2, 4, 8"),
    ]
    assert [key for key, _ in problems(Options(0, 1, 1, 0, 8, 1, 16, 10))] == ["d_model", "patch"]


def test_every_activation_can_be_named():
    assert set(ACTIVATIONS) == {"gelu", "gelu_tanh", "relu"}

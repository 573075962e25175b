"""muP: at its base width it is the standard parametrisation, and nothing in training grows or fades with width."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from scalectl.core.job import Job, Placement
from scalectl.core.rows import Row
from scalectl.core.run import Member
from scalectl.models.decoder import forward
from scalectl.models.decoder.spec import MUP_BASE_WIDTH, MUP_D_HEAD, Options, tensors
from scalectl.optim import OPTIMIZERS
from scalectl.tasks import TASKS
from scalectl.train.engine import Engine, Turn, fresh_row
from scalectl.train.loop import train

WIDTHS = (32, 64, 128, 256, 512)
STEPS = 4
# Largest slope of log size against log width that counts as flat; ours: measured -0.17 to 0.00 (tied and untied), while
# the standard parametrisation gives 0.7 for the logits and 1.6 to 1.8 for the layers.
FLAT = 0.25


def engine_of(runs):
    data = TASKS["markov"].open_data(runs[0].task.options)
    return Engine(runs, [fresh_row(run) for run in runs], data, Placement())


def losses(run):
    return [event.value for event in train(Job((run,), Placement())) if isinstance(event, Row)]


@pytest.mark.parametrize("options", [{}, {"tie": False}, {"d_ff": 96, "position": "rotary", "norm": "rms"}], ids=str)
def test_at_the_base_width_mup_is_the_standard_parametrisation_bit_for_bit(make_run, options):
    width = 4 * MUP_D_HEAD  # four heads of the size at which the attention scale is the standard one
    options = options | {"steps": 6}
    standard = losses(make_run(d_model=width, **options))
    assert losses(make_run(d_model=width, mup_base_width=width, **options)) == standard
    assert losses(make_run(d_model=width, mup_base_width=width // 2, **options)) != standard


def test_a_standard_run_computes_nothing_more(make_run):
    def columns(**options):
        return engine_of([make_run(d_model=128, **options)]).columns

    assert columns().rates is None
    rates = columns(mup_base_width=64).rates
    assert rates.shape[0] == 1
    assert sorted(set(rates[0].tolist())) == [0.5, 1.0]


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("d_ff", [0, 96])
def test_the_table_follows_yang_et_al(tie, d_ff):
    """Table 8 of arXiv 2203.03466: variance 1/fan-in for hidden matrices, constant for tables and head."""
    base, wide = (
        {t.name: t for t in tensors(Options(width, 2, 4, 8, 11, tie=tie, d_ff=d_ff, mup_base_width=64))}
        for width in (64, 256)
    )
    for name, tensor in wide.items():
        hidden = tensor.role == "matmul" and not tensor.embedding
        fan_in = tensor.shape[0] / base[name].shape[0] if hidden else 1.0
        fan_out = tensor.shape[-1] / base[name].shape[-1]
        assert (tensor.grown_in, tensor.grown_out) == (fan_in, fan_out)
        assert tensor.std == pytest.approx(base[name].std / math.sqrt(fan_in))
    assert wide["layer0.qkv.weight"].grown_in == 4
    assert wide["layer0.down.weight"].grown_in == (1 if d_ff else 4)
    assert Options(256, 2, 4, 8, 11, mup_base_width=64).logit_scale == 1 / 4


def test_the_attention_scale_falls_with_the_width_of_a_head_and_not_with_their_number():
    def scale(width, heads):
        return Options(width, 2, heads, 8, 11, mup_base_width=MUP_BASE_WIDTH).attention_scale

    assert scale(MUP_BASE_WIDTH, 4) == 1 / math.sqrt(MUP_BASE_WIDTH / 4)
    assert scale(1024, 4) == scale(256, 4) / 4
    assert scale(1024, 16) == scale(256, 4)
    assert Options(256, 2, 4, 8, 11).attention_scale == 1 / 8


def activations(engine, tokens, monkeypatch):
    """The residual stream after every attention and every block, and the logits, of the models as they are."""
    kept = {}

    def recorded(name, function):
        def record(x, views, at, *others, **named):
            kept[f"{at}.{name}"] = found = function(x, views, at, *others, **named)
            return found

        return record

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(forward, "_attention", recorded("attention", forward._attention))
        patch.setattr(forward, "_block", recorded("block", forward._block))
        engine.population.refresh()
        kept["logits"] = forward.logits(engine.population.views(slice(None)), tokens, engine.run.model.options)
    return kept


def change(runs, monkeypatch):
    """Root mean square of what a few steps change in every activation, over the entries and the runs."""
    engine = engine_of(runs)
    unseen = engine.data.batch(99, 0, runs[0].sequences, runs[0].context)
    probe = torch.from_numpy(unseen)[:, :-1].expand(len(runs), -1, -1)
    before = activations(engine, probe, monkeypatch)
    engine.learn([[Turn(step, 1.0)] * len(runs) for step in range(STEPS)])
    after = activations(engine, probe, monkeypatch)
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in after}


def slopes(make_run, monkeypatch, **options):
    """Slope of log change against log width, for each activation."""
    found = [
        change([make_run(d_model=width, seed=seed, context=32, **options) for seed in (0, 1)], monkeypatch)
        for width in WIDTHS
    ]
    logs = np.log([list(changes.values()) for changes in found])
    return dict(zip(found[0], np.polyfit(np.log(WIDTHS), logs, 1)[0], strict=True))


@pytest.mark.parametrize("tie", [True, False])
def test_what_training_changes_is_flat_over_width_under_mup_and_grows_without(make_run, monkeypatch, tie):
    """The coordinate check of Yang et al. 2022, appendix D.1."""
    flat = slopes(make_run, monkeypatch, tie=tie, mup_base_width=MUP_BASE_WIDTH)
    assert len(flat) == 5
    assert all(abs(slope) < FLAT for slope in flat.values()), flat
    standard = slopes(make_run, monkeypatch, tie=tie)
    assert standard["logits"] > 2 * FLAT
    assert all(slope > 4 * FLAT for name, slope in standard.items() if name != "logits"), standard


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sgd", {"lr": 0.03}),
        pytest.param("muon", {"lr": 0.02, "adamw_lr": 3e-3}, marks=pytest.mark.slow),
        pytest.param("muon", {"lr": 0.002, "adamw_lr": 3e-4, "adjust": "match_rms_adamw"}, marks=pytest.mark.slow),
    ],
)
def test_the_rules_of_the_other_optimisers_are_flat_over_width_too(make_run, monkeypatch, name, options):
    """Measured: -0.14 to 0.17 under muP; in the standard parametrisation 0.58 to 1.2 for the logits."""

    def make(**shape):
        return dataclasses.replace(make_run(**shape), optim=Member(name, 1, OPTIMIZERS[name].options(**options)))

    flat = slopes(make, monkeypatch, mup_base_width=MUP_BASE_WIDTH)
    assert all(abs(slope) < FLAT for slope in flat.values()), flat
    assert slopes(make, monkeypatch)["logits"] > 2 * FLAT

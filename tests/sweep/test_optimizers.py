"""Optimisers in a sweep file: their own keys, and costs that follow their state."""

import pytest

from scalectl.commands.sweep import prepare
from scalectl.core.errors import SweepFileError
from scalectl.sweep.pack import pack_key
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import parse_sweep

TEXT = """\
name = "tiny"
[model]
family = "decoder"
d_model = 64
n_layer = 2
n_head = 4
context = 16
[data]
source = "markov"
symbols = 8
[train]
steps = 10
batch_tokens = 64
lr = 0.01
"""
MUON = 'optimizer = "muon"\nadamw_lr = 3e-3\n'


def only(more=""):
    (planned,) = expand(parse_sweep(TEXT + more)).runs
    return planned


def test_each_has_its_own_keys():
    assert only('optimizer = "sgd"\nmomentum = 0.8\nnesterov = true\n').run.optim.options.momentum == 0.8
    assert only(f'{MUON}adjust = "match_rms_adamw"\n').run.optim.options.adjust == "match_rms_adamw"


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ('optimizer = "sgd"\nbeta1 = 0.9\n', "[train] beta1 is not a known key"),
        ("momentum = 0.9\n", "[train] momentum is not a known key"),
        ('optimizer = "muon"\n', "[train] adamw_lr is missing"),
        (f'{MUON}adjust = "half"\n', 'train.adjust: "half" is not one of original, match_rms_adamw'),
        ('optimizer = "sgd"\nmomentum = 1.5\n', "train.momentum: 1.5 is too large"),
    ],
)
def test_other_keys_are_refused(more, what):
    with pytest.raises(SweepFileError) as caught:
        parse_sweep(TEXT + more)
    assert any(problem.what.startswith(what) for problem in caught.value.problems)


def test_a_missing_key_comes_with_what_to_write():
    with pytest.raises(SweepFileError) as caught:
        parse_sweep(TEXT.replace("lr = 0.01\n", "").replace("n_layer = 2\n", "") + 'optimizer = "muon"\n')
    remedies = {problem.what: problem.remedy for problem in caught.value.problems}
    assert remedies["[model] n_layer is missing"] == "write n_layer = an integer"
    assert remedies["[train] lr is missing"].startswith("write lr = 0.003, or lr = { rule = ")
    assert "tables, head and vectors" in remedies["[train] adamw_lr is missing"]


def test_memory_and_disk_follow_the_state_that_an_optimiser_keeps(tmp_path):
    """AdamW keeps two numbers a parameter, SGD one, Muon one for hidden matrices and two for the rest."""
    adamw, sgd, muon = only(), only('optimizer = "sgd"\n'), only(MUON)
    hidden = 2 * 12 * 64**2
    assert sgd.state * 2 == adamw.state
    assert muon.state == adamw.state - hidden
    assert adamw.bytes - sgd.bytes == 8 * sgd.state  # twice, as each run is seated: activations are less here
    disks = []
    for name, more in (("adamw", ""), ("sgd", 'optimizer = "sgd"\n')):
        (tmp_path / f"{name}.toml").write_text(TEXT + more)
        disks.append(prepare(str(tmp_path / f"{name}.toml"), str(tmp_path / "results")).disk)
    assert disks[0] - disks[1] == 2 * 4 * sgd.state


def test_rows_of_a_pack_agree_on_what_their_optimiser_shares():
    assert pack_key(only(MUON)) == pack_key(only(MUON + "momentum = 0.9\n"))
    assert pack_key(only(MUON)) != pack_key(only(MUON + "nesterov = false\n"))

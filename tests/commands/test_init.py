"""The sweep file that `init` writes, and the shipped ones: lengths of a grid share trunks."""

import tomllib

import pytest

from scalectl.commands.init import TEMPLATE
from scalectl.commands.shipped import shipped_sweeps, sweeps_folder
from scalectl.optim.trunks import trunks
from scalectl.sweep.block import HORIZONS
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import parse_sweep


def test_a_grid_over_tokens_in_the_file_of_init_is_one_trunk_for_each_size_and_seed():
    text = TEMPLATE.format(file="x", name="mine")
    asked = ["train.tokens={ grid = [230400, 460800, 921600] }", "data.source=markov"]
    plan = expand(parse_sweep(text, overrides=asked))
    assert len(plan.runs) == 24
    assert len(trunks([planned.run for planned in plan.runs])) == 8
    assert not [note for note in plan.notes if "warm-up" in note]


@pytest.mark.parametrize("name", shipped_sweeps())
def test_a_shipped_sweep_of_several_lengths_warms_up_in_steps(name):
    train = tomllib.loads((sweeps_folder() / f"{name}.toml").read_text())["train"]
    lengths = [train[key] for key in (name.removeprefix("train.") for name in HORIZONS) if key in train]
    if any(isinstance(length, dict) for length in lengths):
        assert train["warmup"] >= 1

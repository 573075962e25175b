"""`lr = "mup:RATE"`: a rate of muP's base width turns muP on, and says so where it cannot."""

from dataclasses import replace

import pytest

from scalectl.core.errors import SweepFileError
from scalectl.models import MODELS
from scalectl.models.decoder.spec import MUP_BASE_WIDTH
from scalectl.optim import OPTIMIZERS
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import parse_sweep

GOOD = """\
name = "tiny"
[model]
family = "decoder"
d_model = { grid = [8, 16] }
n_layer = 1
n_head = 2
context = 16
[data]
source = "markov"
symbols = 8
[train]
steps = 10
batch_tokens = 64
lr = "mup:3e-3"
"""


def found(text=GOOD, **options):
    runs = [cell.run for cell in parse_sweep(text, **options).cells]
    return [(r.model.options.d_model, r.optim.options.lr, r.model.options.mup_base_width) for r in runs]


def problem(text, **options):
    with pytest.raises(SweepFileError) as caught:
        parse_sweep(text, **options)
    (one,) = caught.value.problems
    return one


def with_rate(rate, more=""):
    return GOOD.replace('"mup:3e-3"', rate) + more


def test_a_rate_of_mup_is_a_number_and_a_base_width():
    assert found() == [(8, 0.003, MUP_BASE_WIDTH), (16, 0.003, MUP_BASE_WIDTH)]
    assert found(with_rate("3e-3")) == [(8, 0.003, 0), (16, 0.003, 0)]


def test_the_base_width_can_be_given():
    assert found(overrides=["model.mup_base_width=32"]) == [(8, 0.003, 32), (16, 0.003, 32)]


@pytest.mark.parametrize("word", ["grid", "zip"])
def test_an_axis_of_rates(word):
    text = with_rate(f'{{ {word} = ["mup:1e-3", "mup:2e-3"] }}')
    text = text.replace("grid = [8, 16]", f"{word} = [8, 16]")
    cells = parse_sweep(text).cells
    assert {cell.run.model.options.mup_base_width for cell in cells} == {MUP_BASE_WIDTH}
    assert [cell.value("train.lr") for cell in cells] == ([0.001, 0.002] * 2 if word == "grid" else [0.001, 0.002])


def test_an_override_turns_it_on_and_off():
    assert found(with_rate("3e-3"), overrides=["lr=mup:5e-3"])[0] == (8, 0.005, MUP_BASE_WIDTH)
    assert found(overrides=["lr=5e-3"])[0] == (8, 0.005, 0)


def test_two_parametrisations_stand_in_two_blocks_and_the_base_width_tells_them_apart():
    blocks = '[[block]]\n[block.train]\nlr = "mup:1e-3"\n[[block]]\n[block.train]\nlr = 1e-3\n'
    sweep = parse_sweep(GOOD.replace('lr = "mup:3e-3"\n', "") + blocks)
    assert sweep.axes == ("model.d_model", "model.mup_base_width")
    planned = expand(sweep)
    assert [p.cell["model.mup_base_width"] for p in planned.runs] == [MUP_BASE_WIDTH] * 2 + [0] * 2
    assert len(set(planned.run_ids)) == 4


def test_a_shared_base_width_means_nothing_to_a_block_of_plain_rates():
    blocks = '[[block]]\n[block.train]\nlr = "mup:1e-3"\n[[block]]\n[block.train]\nlr = 1e-3\n'
    text = GOOD.replace('lr = "mup:3e-3"\n', "").replace("[data]", "mup_base_width = 4\n[data]") + blocks
    assert [base for _, _, base in found(text)] == [4, 4, 0, 0]


def test_a_mixed_axis_is_refused():
    one = problem(with_rate('{ grid = ["mup:1e-3", 2e-3] }'))
    assert (one.line, one.what) == (14, "train.lr: rates of muP and others in one grid")
    assert "[[block]]" in one.remedy


@pytest.mark.parametrize("rate", ["mup:", "mup:fast", "mup:1e-3x"])
def test_what_follows_the_word_has_to_be_a_number(rate):
    one = problem(with_rate(f'"{rate}"'))
    assert (one.line, one.what) == (14, f'train.lr: "{rate}" has no number behind mup:')
    assert one.remedy == 'write lr = "mup:0.003", or a plain rate'


@pytest.mark.parametrize("rate", ["mup:0", "mup:-1", "mup:inf", "mup:nan"])
def test_the_number_has_the_limits_of_any_rate(rate):
    assert problem(with_rate(f'"{rate}"')).what.startswith("train.lr: ")


def test_a_base_width_without_mup_is_refused():
    one = problem(with_rate("3e-3").replace("[data]", "mup_base_width = 32\n[data]"))
    assert (one.line, one.what) == (8, "model.mup_base_width means nothing without a learning rate of muP")
    assert "mup:RATE" in one.remedy


def test_a_family_without_rules_of_mup_refuses_it(monkeypatch):
    monkeypatch.setitem(MODELS, "decoder", replace(MODELS["decoder"], mup_base_width=0))
    assert problem(GOOD).what == "train.lr: muP is not defined for family decoder"
    planned = expand(parse_sweep(with_rate("3e-3")))
    assert not any("mup" in note for note in planned.notes)


def test_an_optimiser_without_rules_of_mup_refuses_it(monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "adamw", replace(OPTIMIZERS["adamw"], rate=None))
    assert problem(GOOD).what == "train.lr: muP is not defined for optimizer adamw"


def test_one_rate_for_all_widths_is_no_warning_under_mup_and_the_warning_names_it():
    def noted(text):
        return [note for note in expand(parse_sweep(text)).notes if "one learning rate for all widths" in note]

    assert not noted(GOOD)
    (note,) = noted(with_rate("3e-3"))
    assert 'lr = "mup:0.003"' in note
    assert 'lr = { rule = "0.003 * 16 / d_model" } follows it from width 16' in note


@pytest.mark.parametrize(("name", "more"), [("sgd", ""), ("muon", "adamw_lr = 1e-3\n")])
def test_every_optimiser_of_scalectl_takes_it(name, more):
    assert found(GOOD + f'optimizer = "{name}"\n' + more)[0] == (8, 0.003, MUP_BASE_WIDTH)

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import in_moments

from scalectl.core.errors import SweepFileError
from scalectl.models.decoder import spec as decoder
from scalectl.sweep.plan import expand
from scalectl.sweep.spec import load, parse_sweep


def text(
    model="", train="tokens = 6400", data="", more="", d_model="{ grid = [8, 16] }", seed="0", n_head="2", lr="0.01"
):
    return f"""\
name = "tiny"
[model]
family = "decoder"
d_model = {d_model}
n_layer = 1
n_head = {n_head}
context = 16
{model}
[data]
source = "markov"
symbols = 8
{data}
[train]
batch_tokens = 64
lr = {lr}
seed = {seed}
{train}
{more}
"""


def plan(*arguments, **given):
    return expand(parse_sweep(text(*arguments, **given)))


def test_a_grid_is_a_product_with_the_last_axis_fastest():
    planned = plan(seed="{ grid = [5, 6] }")
    assert [p.cell for p in planned.runs] == [
        {"model.d_model": 8, "train.seed": 5},
        {"model.d_model": 8, "train.seed": 6},
        {"model.d_model": 16, "train.seed": 5},
        {"model.d_model": 16, "train.seed": 6},
    ]
    assert len(set(planned.run_ids)) == 4
    assert planned.axes == ("model.d_model", "train.seed")


def test_zipped_lists_vary_together_and_with_the_grids():
    planned = plan(d_model="{ zip = [8, 16] }", model="d_ff = { zip = [8, 64] }", seed="{ grid = [0, 1] }")
    cells = [(p.run.model.options.d_model, p.run.model.options.d_ff, p.run.seed) for p in planned.runs]
    assert cells == [(8, 8, 0), (8, 8, 1), (16, 64, 0), (16, 64, 1)]


def test_a_rule_is_worked_out_for_every_cell_and_typed():
    planned = plan(
        model='d_ff = { rule = "3 * d_model" }',
        train='steps = 100\nweight_decay = { rule = "1 / sqrt(N_total) * lr" }\nwarmup = { rule = "floor(steps / 8)" }',
    )
    for p in planned.runs:
        options = p.run.model.options
        assert options.d_ff == 3 * options.d_model
        assert type(options.d_ff) is int
        assert p.run.optim.options.weight_decay == pytest.approx(0.01 / math.sqrt(p.n["total"]), rel=1e-15)
        assert p.run.schedule.options.warmup == 12
    assert planned.axes == ("model.d_model",)


def test_rules_are_worked_out_in_the_order_in_which_they_need_one_another():
    planned = plan(model='d_ff = { rule = "vocab * d_model * 2" }', d_model='{ rule = "n_head * 4" }')
    assert planned.runs[0].run.model.options.d_model == 8
    assert planned.runs[0].run.model.options.d_ff == 8 * 8 * 2


def test_blocks_add_grids_to_a_complete_file():
    planned = plan(more="[[block]]\nmodel.d_model = 32\ntrain.lr = { grid = [0.1, 0.2] }\n[[block]]\ntrain.steps = 3\n")
    found = [(p.run.model.options.d_model, p.run.optim.options.lr, p.run.steps) for p in planned.runs]
    assert found == [(8, 0.01, 100), (16, 0.01, 100), (32, 0.1, 100), (32, 0.2, 100), (8, 0.01, 3), (16, 0.01, 3)]
    assert "runs by grid: 2 above the blocks, 2 [[block]] 0, 2 [[block]] 1" in planned.notes
    assert all(set(p.cell) == set(planned.axes) for p in planned.runs)


def test_an_incomplete_file_is_only_what_its_blocks_share():
    more = "[[block]]\ntrain.flops = 1e7\n[[block]]\ntrain.flops = 1e8\nmodel.d_model = 4\n"
    planned = plan(train="", more=more)
    assert [(p.run.model.options.d_model, p.cell["train.flops"]) for p in planned.runs] == [
        (8, 1e7),
        (16, 1e7),
        (4, 1e8),
    ]


def test_a_key_that_only_one_block_varies_has_its_default_in_the_others():
    planned = plan(d_model="8", more="[[block]]\ntrain.weight_decay = { grid = [0.0, 0.3] }\n")
    assert [p.cell["train.weight_decay"] for p in planned.runs] == [0.1, 0.0, 0.3]
    assert [p.run.optim.options.weight_decay for p in planned.runs] == [0.1, 0.0, 0.3]


def repeats(planned):
    """Runs of one cell, the seed left out."""
    groups = {}
    for p in planned.runs:
        groups.setdefault(tuple((k, v) for k, v in p.cell.items() if k != "train.seed"), []).append(p.run)
    return list(groups.values())


BLOCKS = {
    "another position than the default": (
        {},
        'model.position = "rotary"',
        ("model.position",),
        [{"model.position": "learned"}, {"model.position": "rotary"}],
    ),
    "a learning rate against a rule": (
        {"lr": '{ rule = "0.08 / d_model" }'},
        "train.lr = 0.02",
        ("train.lr",),
        [{"train.lr": 0.01}, {"train.lr": 0.02}],
    ),
    "two rules": (
        {"lr": '{ rule = "0.08 / d_model" }'},
        'train.lr = { rule = "0.16 / d_model" }',
        ("train.lr",),
        [{"train.lr": 0.01}, {"train.lr": 0.02}],
    ),
    "two lengths": (
        {},
        "train.steps = 3",
        ("train.tokens",),
        [{"train.tokens": 6400}, {"train.tokens": 192}],
    ),
    "another batch": (
        {"train": "steps = 4"},
        "train.batch_tokens = 512",
        ("train.batch_tokens",),
        [{"train.batch_tokens": 64}, {"train.batch_tokens": 512}],
    ),
    "another schedule, whose decay follows from it": (
        {"train": "tokens = 6400\ndecay = 0.4"},
        'train.schedule = "cosine"',
        ("train.schedule",),
        [{"train.schedule": "wsd"}, {"train.schedule": "cosine"}],
    ),
}


@pytest.mark.parametrize("case", BLOCKS.values(), ids=BLOCKS)
def test_runs_of_two_blocks_are_no_repeats_of_one_another(case):
    given, block, axes, cells = case
    base = text(seed="{ grid = [0, 1] }", d_model="8", **given)
    planned = expand(parse_sweep(f"{base}[[block]]\n{block}\n"))
    assert set(planned.axes) == {*axes, "train.seed"}
    found = [dict(cell) for cell in dict.fromkeys(tuple((k, p.cell[k]) for k in axes) for p in planned.runs)]
    assert found == cells
    assert [sorted(run.seed for run in group) for group in repeats(planned)] == [[0, 1], [0, 1]]


def test_a_batch_by_default_and_a_batch_of_a_block_are_told_apart():
    base = text(d_model="8", train="steps = 4").replace("batch_tokens = 64\n", "")
    planned = expand(parse_sweep(f"{base}[[block]]\ntrain.batch_tokens = 64\n"))
    assert [dict(p.cell) for p in planned.runs] == [{"train.batch_tokens": 512}, {"train.batch_tokens": 64}]


def test_a_setting_that_goes_with_the_seed_is_an_axis_and_no_repeat():
    planned = plan(d_model="8", seed="{ grid = [0, 1] }", lr='{ rule = "0.01 * (1 + seed)" }')
    assert planned.axes == ("train.lr", "train.seed")
    assert [len(group) for group in repeats(planned)] == [1, 1]


def test_what_follows_from_the_axes_is_no_axis():
    planned = plan(
        lr='{ rule = "0.08 / d_model" }',
        train='flops = { grid = [1e8, 2e8] }\nwarmup = { rule = "floor(steps / 10)" }',
        seed='{ rule = "d_model" }',
    )
    assert planned.axes == ("model.d_model", "train.flops")
    assert len({p.run.steps for p in planned.runs}) == 4


def test_an_option_that_no_run_reads_is_no_axis():
    planned = plan(train='steps = 100\nschedule = "cosine"\ndecay = { grid = [0.1, 0.2] }')
    assert planned.axes == ("model.d_model",)
    assert len(planned) == 2


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_runs_that_agree_on_the_axes_differ_in_the_seed_alone(data):
    lines = {
        "model.d_model": ["8", "{ grid = [8, 16] }", '{ rule = "4 * n_head" }'],
        "model.position": ['"rotary"', '"learned"', '{ grid = ["rotary", "sinusoidal"] }'],
        "train.lr": ["0.02", '{ rule = "0.08 / d_model" }', '{ rule = "0.01 * (1 + seed)" }'],
        "train.steps": ["100", "{ grid = [50, 100] }", '{ rule = "10 * d_model" }'],
        "train.flops": ["1e8", "{ grid = [1e8, 2e8] }"],
        "train.seed": ["0", "3", "{ grid = [0, 1] }", '{ rule = "d_model" }'],
        "train.schedule": ['"cosine"', '"wsd"', '{ grid = ["wsd", "constant"] }'],
        "train.decay": ["0.3", "{ grid = [0.1, 0.2] }"],
    }
    blocks = data.draw(st.lists(st.dictionaries(st.sampled_from(sorted(lines)), st.none()), min_size=1, max_size=3))
    more = ""
    for block in blocks:
        keys = [key for key in block if not (key == "train.steps" and "train.flops" in block)]
        more += "[[block]]\n" + "".join(f"{key} = {data.draw(st.sampled_from(lines[key]))}\n" for key in keys)
    planned = expand(parse_sweep(text(seed="{ grid = [0, 1] }", more=more)))
    for group in repeats(planned):
        assert len({dataclasses.replace(run, seed=0) for run in group}) == 1


@pytest.mark.parametrize("horizon", ["tokens", "tokens_per_param", "flops", "steps"])
def test_every_length_is_rounded_down_to_whole_steps(horizon):
    asked = {"tokens": 10_000, "tokens_per_param": 7.3, "flops": 4.4e8, "steps": 71}[horizon]
    for p in plan(train=f"{horizon} = {asked}").runs:
        n = decoder.ledger(p.run.model.options)
        given = {
            "tokens": p.tokens,
            "tokens_per_param": p.tokens / n.params("total"),
            "flops": p.tokens * n.flops_per_token(),
            "steps": p.run.steps,
        }[horizon]
        step = given / p.run.steps
        assert asked - step < given <= asked
        assert p.tokens == p.run.steps * 64


def test_a_length_can_be_a_grid():
    assert [p.run.steps for p in plan(train="tokens = { grid = [640, 6400] }", d_model="8").runs] == [10, 100]


@given(st.integers(1, 10**6))
@settings(max_examples=50, deadline=None)
def test_no_step_is_lost_to_the_last_digit_of_a_quotient(steps):
    lengths = parse_sweep(text(train="steps = 1", d_model="8")).cells[0]
    n = lengths.ledger.params("total")
    tokens = steps * 64
    for train in (
        f"tokens = {tokens}",
        f"tokens_per_param = {tokens / n!r}",
        f"flops = {tokens * lengths.ledger.flops_per_token()}",
    ):
        assert parse_sweep(text(train=train, d_model="8")).cells[0].run.steps == steps


def test_rounding_that_loses_tokens_is_noted():
    assert any(
        "rounded down" in note and "6400 tokens in 100 steps" in note for note in plan(train="tokens = 6450").notes
    )
    assert not any("rounded down" in note for note in plan(train="tokens = 6400").notes)


def test_warm_up_and_decay_become_steps():
    for train, warmup, decay in [
        ("steps = 100", 5, 20),
        ("steps = 100\nwarmup = 0.1\ndecay = 0.5", 10, 50),
        ("steps = 100\nwarmup = 7\nmin_decay = 30", 7, 30),
        ("steps = 100\nwarmup = 0\ndecay = 0", 0, 0),
        ("steps = 3\nwarmup = 0", 0, 1),
        ('steps = 100\nschedule = "cosine"', 5, 0),
    ]:
        options = plan(train=train, d_model="8").runs[0].run.schedule.options
        assert (options.warmup, options.decay) == (warmup, decay), train
    assert any(
        "means nothing to the schedule cosine" in n
        for n in plan(train='steps = 9\ndecay = 0.1\nschedule = "cosine"').notes
    )


@pytest.mark.parametrize(
    ("train", "idle", "schedule"),
    [
        ('schedule = "cosine"\ndecay = 0.3', "train.decay", "cosine"),
        ('schedule = "linear"\nmin_decay = 3', "train.min_decay", "linear"),
        ('schedule = "constant"\nfinal = 0.5', "train.final", "constant"),
        ("decay = 0\nfinal = 0.5", "train.final", "wsd without a decay"),
        ("decay = 0\nmin_decay = 5", "train.min_decay", "wsd without a decay"),
        ('schedule = { grid = ["wsd", "constant"] }\ndecay = 0.3', "train.decay", "constant"),
    ],
)
def test_an_option_that_its_schedule_does_not_read_is_noted_and_moves_no_id(train, idle, schedule):
    planned = plan(train=f"steps = 100\n{train}", d_model="8")
    assert f"{idle} means nothing to the schedule {schedule}" in planned.notes
    without = "\n".join(line for line in train.split("\n") if not line.startswith(idle.removeprefix("train.")))
    silent = plan(train=f"steps = 100\n{without}", d_model="8")
    assert planned.run_ids[-1] == silent.run_ids[-1]
    assert not any("means nothing" in note for note in silent.notes)


def test_a_final_factor_moves_the_id_where_the_schedule_falls():
    for schedule in ("wsd", "cosine", "linear"):
        ids = [
            plan(train=f'steps = 100\nschedule = "{schedule}"\nfinal = {final}', d_model="8").run_ids
            for final in (0.0, 0.1)
        ]
        assert ids[0] != ids[1]


def test_a_batch_is_32_sequences_unless_the_file_says_otherwise():
    sweep = parse_sweep(text(train="steps = 2").replace("batch_tokens = 64\n", ""))
    assert sweep.cells[0].run.sequences == 32


def test_constraints_drop_and_say_which_constraint_did():
    drop = '"d_model > 8 and train.seed == 1", "N_total > 1e9 or C_exact == 0", "model.family == \'vit\'"'
    planned = plan(seed="{ grid = [0, 1] }", more=f"[constraints]\ndrop = [{drop}]")
    assert len(planned) == 3
    assert planned.dropped == (({"model.d_model": 16, "train.seed": 1}, "d_model > 8 and train.seed == 1"),)
    everything = plan(more='[constraints]\ndrop = ["steps > 0"]')
    assert len(everything) == 0
    assert everything.notes == ("no run is left",)


@pytest.mark.parametrize(
    ("drop", "what"),
    [
        ("model.family < 3", "two numbers or two texts"),
        ("d_model", "no condition"),
        ("1 / 0 > N_total", "division by zero"),
    ],
)
def test_a_constraint_that_cannot_be_worked_out_is_refused_with_its_line(drop, what):
    with pytest.raises(SweepFileError) as caught:
        plan(more=f"[constraints]\ndrop = [\n  '{drop}'\n]")
    (problem,) = caught.value.problems
    assert what in problem.what
    assert drop in problem.snippet
    assert problem.snippet.startswith(f"{problem.line} | ")


def test_the_same_run_asked_for_twice_is_planned_once():
    planned = plan(d_model="{ grid = [8, 8.0, 16] }")
    assert [p.run.model.options.d_model for p in planned.runs] == [8, 16]
    assert any("1 of 3 runs are asked for more than once" in note for note in planned.notes)


def test_costs_are_those_of_the_ledger():
    planned = plan()
    for p in planned.runs:
        n = decoder.ledger(p.run.model.options)
        assert p.n == {c: n.params(c) for c in ("non_embedding", "total", "matmul")}
        assert p.flops == n.flops_per_token() * 6400
        assert p.c_6nd == 6 * p.n["non_embedding"] * 6400
        assert p.bytes == n.train_bytes(64, state=p.state)
        columns = p.columns()
        assert columns["D"] == columns["train.tokens"] == 6400
        assert columns["C_exact"] == p.flops
        assert columns["tokens_per_param"] == 6400 / columns["N_total"]
        windows = columns["unique_tokens"] // 4097 * (4096 // 16)  # of 4097 tokens in a segment the first is no target
        assert columns["epochs"] == 6400 / (windows * 16)
    assert planned.flops == sum(p.flops for p in planned.runs)
    half = plan(more="[runtime]\nmicro_batch = 2")
    assert half.runs[0].bytes < planned.runs[0].bytes
    assert half.run_ids == planned.run_ids


def test_repeated_data_are_noted_with_their_epochs():
    planned = plan(data="unique_tokens = 4097", train="tokens = 81940")
    assert planned.runs[0].epochs == 81_920 / 4096
    assert any("2 of 2 runs repeat their data, up to 20 epochs" in note for note in planned.notes)


@pytest.mark.parametrize(
    ("n_head", "said"),
    [
        ("2", "2 heads are held fixed; their size grows, 4 to 8"),
        ('{ rule = "d_model / 4" }', "heads of size 4 are held fixed; their number grows, 2 to 4"),
        ("{ zip = [4, 2] }", "neither the number of heads (2 to 4) nor their size (2 to 8) is held fixed"),
    ],
)
def test_what_is_held_fixed_along_the_width_axis_is_said(n_head, said):
    planned = plan(n_head=n_head, d_model="{ zip = [8, 16] }")
    assert [note for note in planned.notes if said in note]


def test_more_held_out_tokens_than_there_are_is_noted_with_how_many_there_are():
    (note,) = [note for note in plan(more="[eval]\ntokens = 100000000").notes if "held-out" in note]
    there = int(note.split()[-3])
    assert f"takes all {there} tokens; write eval.tokens = {there} or less" in note
    assert not [held for held in plan(more=f"[eval]\ntokens = {there}").notes if "held-out" in held]


def test_one_learning_rate_for_all_widths_is_noted():
    def noted(**given):
        return any("one learning rate for all widths" in note for note in plan(**given).notes)

    assert noted()
    assert not noted(lr='{ rule = "0.1 / d_model" }')
    assert not noted(lr="{ grid = [0.1, 0.2] }")
    assert not noted(d_model="8")


def test_the_shipped_ladder_is_the_documented_grid():
    planned = expand(load(Path(__file__).parents[2] / "sweeps/stdlib-ladder.toml"))
    assert [(p.cell["model.d_model"], p.cell["train.seed"]) for p in planned.runs] == [
        (width, seed) for width in (8, 16, 32, 64, 128) for seed in (0, 1, 2)
    ]
    assert {(p.run.steps, p.tokens, p.run.schedule.options.warmup) for p in planned.runs} == {(600, 1_382_400, 40)}
    rates = [p.run.optim.options.lr for p in planned.runs]
    assert rates[::3] == rates[1::3] == rates[2::3] == sorted(rates[::3], reverse=True)
    assert rates[0] > rates[-1]
    assert planned.dropped == ()


def test_a_plan_of_ten_thousand_runs_takes_seconds():
    def grid(values):
        return "{ grid = [" + ", ".join(map(str, values)) + "] }"

    def ten_thousand():
        return plan(
            d_model=grid(range(2, 42, 2)),
            seed=grid(range(50)),
            train=f"steps = 100\nweight_decay = {grid(i / 10 for i in range(10))}",
            more='[constraints]\ndrop = ["tokens_per_param < 0.01"]',
        )

    planned = in_moments(ten_thousand, 6)  # 1.2 of them alone
    assert len(planned) + len(planned.dropped) == 10_000


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_plan_says_what_a_precision_for_gpus_is_on_a_cpu(precision):
    assert any(
        note.startswith(f"precision {precision} is for GPUs") for note in plan(more=f'precision = "{precision}"').notes
    )
    assert not any("precision" in note for note in plan(more='precision = "bf16"').notes)

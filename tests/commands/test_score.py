"""`scalectl fit` of scores: tables of other people, and what is answered when they are not what they should be."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from support import PUBLISHED

from scalectl.commands import score as command
from scalectl.commands.fit import Request, is_score, means_score
from scalectl.commands.measured import Asked
from scalectl.core.errors import NothingMatched, UsageError

N = np.geomspace(1e7, 10**10.5, 8)
JUMP = np.r_[np.full(4, 0.25), 0.8, 0.82, 0.83, 0.83]
LINE = np.linspace(0.25, 0.8, 8)


def table(tmp_path, **tasks):
    frame = pd.concat(
        pd.DataFrame({"params": N, "task": name, "score": score, "n_items": 500, "chance": 0.25})
        for name, score in tasks.items()
    )
    path = tmp_path / "scores.csv"
    frame.to_csv(path, index=False)
    return path


def found(path, asked=None, **more):
    more = {"draws": 200, **more}
    return command.run(Request(target=str(path), **more), asked or Asked())


def test_a_table_is_read_by_the_names_of_its_columns(tmp_path):
    view = found(table(tmp_path, jump=JUMP, line=LINE))
    jump, line = view.tasks
    assert (jump.task, jump.label) == ("jump", "emergent (break beyond a smooth law)")
    assert jump.bracket == (N[3], N[4])
    assert N[3] < jump.midpoint < N[4]
    assert jump.floor_from == "chance"
    assert (line.task, line.label, line.bracket) == ("line", "smooth", None)
    read = "N is read from the column params, the score from score, items from n_items, chance from chance"
    assert view.notes[0] == f"{read}, tasks from task"


def test_columns_of_any_name_are_mapped(tmp_path):
    path = table(tmp_path, jump=JUMP)
    frame = pd.read_csv(path).rename(columns={"params": "a", "score": "b", "n_items": "c", "chance": "d", "task": "e"})
    frame.to_parquet(tmp_path / "other.parquet")
    asked = Asked(items="c", chance="d", by="e")
    same = found(tmp_path / "other.parquet", asked, maps=("N=a", "S=b")).tasks[0]
    assert same.bracket == found(path).tasks[0].bracket
    assert same.places == found(path).tasks[0].places
    by_number = found(tmp_path / "other.parquet", Asked(items="c", chance="0.25", by="e"), maps=("N=a", "S=b")).tasks[0]
    assert by_number.floor == 0.25


def write(tmp_path, *frames):
    pd.concat(frames).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


@pytest.fixture
def jump(tmp_path):
    return pd.read_csv(table(tmp_path, jump=JUMP))


@pytest.mark.parametrize(
    ("column", "values", "axis", "said"),
    [
        ("tokens", (1e9, 1e10, 1e11), "N", "D varies at one N"),
        ("tokens", (1e9, 1e10, 1e11), "D", "N varies at one D"),
        ("step", (100, 1000, 10000), "N", "step varies at one N"),
        ("lr", (0.001, 0.003, 0.01), "N", "lr varies among these rows at equal N and D"),
        ("lr", (0.001, 0.003, 0.01), "loss", "lr varies among these rows at equal N and D"),
        ("shots", (0, 1, 3), "N", "shots varies among these rows at equal N and D"),
    ],
)
def test_what_varies_at_one_place_of_a_table_and_was_not_named_is_refused(tmp_path, jump, column, values, axis, said):
    path = write(tmp_path, *(jump.assign(**{column: value, "loss": 4 * (N / N[0]) ** -0.1}) for value in values))
    with pytest.raises(UsageError, match=said) as raised:
        found(path, Asked(axis=axis))
    assert "--best-over" not in raised.value.remedy  # which a score refuses
    named = found(path, Asked(by=column))
    assert [task.family for task in named.tasks] == [f"{column}={value}" for value in np.array(values).tolist()]


def test_a_repeat_that_is_named_so_is_one(tmp_path, jump):
    path = write(tmp_path, *(jump.assign(trial=k) for k in range(5)))
    with pytest.raises(UsageError, match="trial varies"):
        found(path)
    assert {place.seeds for place in found(path, maps=("seed=trial",)).tasks[0].places} == {5}


def test_counts_of_hits_and_tokens_that_go_with_the_size_are_no_settings(tmp_path, jump):
    rng = np.random.default_rng(0)
    hits = [rng.binomial(20, JUMP) for _ in range(5)]
    frames = [jump.assign(seed=k, score=held / 20, n_correct=held, tokens=20 * N) for k, held in enumerate(hits)]
    assert {place.seeds for place in found(write(tmp_path, *frames)).tasks[0].places} == {5}


def test_a_column_of_by_splits_beside_the_tasks(tmp_path):
    both = pd.read_csv(table(tmp_path, jump=JUMP, line=LINE))
    path = write(tmp_path, both.assign(shots=0), both.assign(shots=3))
    view = found(path, Asked(by="shots"))
    curves = [(task.family, task.task) for task in view.tasks]
    assert curves == [(f"shots={shots}", task) for shots in (0, 3) for task in ("jump", "line")]
    assert not any("several rows at one place" in note for note in view.notes)
    path = write(tmp_path, both.assign(family="one"), both.assign(family="two"))
    assert [task.family for task in found(path, Asked(by="family")).tasks] == ["one", "one", "two", "two"]


def test_along_the_steps_of_a_table_sizes_are_families(tmp_path, jump):
    steps = np.geomspace(100, 1e5, 8).round()
    path = write(tmp_path, *(jump.assign(params=size, step=steps, score=JUMP) for size in (1e6, 1e8)))
    view = found(path, Asked(axis="step"))
    assert [(task.family, task.label) for task in view.tasks] == [
        ("N = 1 M", "emergent (break beyond a smooth law)"),
        ("N = 100 M", "emergent (break beyond a smooth law)"),
    ]
    path = write(tmp_path, *(jump.assign(params=size, step=steps) for size in ("1M", "100M")))
    with pytest.raises(UsageError, match="params varies"):
        found(path, Asked(axis="step"))


def test_seeds_of_one_size_share_their_loss(tmp_path, jump):
    rng = np.random.default_rng(0)
    loss = [4 * (N / N[0]) ** -0.1 * np.exp(0.003 * rng.standard_normal(8)) for _ in range(5)]
    path = write(tmp_path, *(jump.assign(seed=k, loss=held) for k, held in enumerate(loss)))
    task = found(path, Asked(axis="loss")).tasks[0]
    assert [place.at for place in task.places] == pytest.approx(np.exp(np.log(loss).mean(0)))
    assert {place.seeds for place in task.places} == {5}
    assert "single seed" not in task.because


def test_two_of_the_axes_of_a_table_give_the_third(tmp_path, jump):
    path = write(tmp_path, jump.assign(tokens=20 * N))
    view = found(path, Asked(axis="C"), where="C > 0")
    assert [place.at for place in view.tasks[0].places] == pytest.approx(120 * N**2)
    assert "C is computed through C = 6 N D" in view.notes
    assert view.notes[0].startswith("N is read from the column params, D from tokens, ")


def test_rows_that_are_equal_in_every_column_are_one(tmp_path, jump):
    path = write(tmp_path, jump, jump)
    view = found(path)
    assert view.tasks[0].places == found(write(tmp_path, jump)).tasks[0].places
    assert "8 rows that repeat another in every column: left out" in view.notes
    runs = [jump.assign(score=np.where(N < 1e9, 0.25, JUMP - 0.01 * k)) for k in range(5)]  # ties at the floor
    view = found(write(tmp_path, *runs))
    assert {place.seeds for place in view.tasks[0].places} == {5}
    assert not any("repeat" in note for note in view.notes)


@pytest.mark.parametrize(
    ("column", "asked", "remedy"),
    [
        ("n_items", Asked(), "--items COLUMN"),
        ("chance", Asked(), "--chance COLUMN"),
        ("right", Asked(twin="right"), "--twin COLUMN"),
        ("score", Asked(), "--map S=COLUMN"),
        ("params", Asked(), "--map N=COLUMN"),
        ("loss", Asked(axis="loss"), "--map L=COLUMN"),
    ],
)
def test_text_where_numbers_belong_is_answered_with_the_flag_that_names_others(tmp_path, jump, column, asked, remedy):
    path = write(tmp_path, jump.assign(**{column: "many"}))
    with pytest.raises(UsageError, match='holds "many", which is no number') as raised:
        found(path, asked)
    assert raised.value.remedy == f"name a column of numbers: {remedy}"


def test_a_loss_of_a_table_along_itself_is_refused(tmp_path):
    pd.DataFrame({"params": N, "loss": 4 * (N / N[0]) ** -0.1}).to_csv(tmp_path / "losses.csv", index=False)
    with pytest.raises(UsageError, match="a loss along itself is a line"):
        found(tmp_path / "losses.csv", Asked(axis="loss"))
    assert found(tmp_path / "losses.csv").notes == ("N is read from the column params, the loss from loss",)


def test_a_twin_with_gaps_says_so(tmp_path, jump):
    nll = np.where(np.arange(8) % 2, np.nan, 3 * (N / N[0]) ** -0.3)
    task = found(write(tmp_path, jump.assign(nll=nll)), Asked(twin="nll")).tasks[0]
    assert "the twin has values at 4 of 8 sizes; 4 sizes are too few" in task.because


def test_a_number_of_items_or_of_chance_is_that_of_every_row(tmp_path):
    path = table(tmp_path, jump=JUMP)
    whole = found(path).tasks[0]
    pd.read_csv(path).drop(columns=["n_items", "chance"]).to_csv(tmp_path / "bare.csv", index=False)
    told = found(tmp_path / "bare.csv", Asked(items="500", chance="0.25")).tasks[0]
    assert (told.places, told.interval) == (whole.places, whole.interval)
    with pytest.raises(UsageError, match="--items 0 are none"):
        found(path, Asked(items="0"))


def test_families_are_never_pooled(tmp_path):
    path = table(tmp_path, jump=JUMP)
    frame = pd.read_csv(path)
    pd.concat([frame.assign(family="one"), frame.assign(family="two", score=LINE)]).to_csv(path, index=False)
    view = found(path)
    assert [(task.family, task.label) for task in view.tasks] == [
        ("one", "emergent (break beyond a smooth law)"),
        ("two", "smooth"),
    ]
    assert "2 families, which are never pooled" in view.notes


def test_a_twin_says_whether_the_metric_makes_the_jump(tmp_path):
    right = 1 - 0.95 * (N / N[0]) ** -0.5
    path = table(tmp_path, exact=right**14)
    frame = pd.read_csv(path).assign(logprob=14 * np.log(right), chance=0.0, right=right)
    frame.to_csv(path, index=False)
    for twin in ("logprob", "right"):
        task = found(path, Asked(twin=twin)).tasks[0]
        assert task.flagged
        assert task.artefact == "metric-driven"
    lost = frame.assign(logprob=-np.where(np.arange(8) < 4, 3.0, 0.1) * (N / N[0]) ** -0.05, score=JUMP, chance=0.25)
    lost.to_csv(path, index=False)
    assert found(path, Asked(twin="logprob")).tasks[0].artefact == "genuine"
    assert found(path).tasks[0].artefact == "undetermined"


@pytest.mark.parametrize(
    ("change", "label", "said"),
    [
        (
            {"score": 100 * JUMP},
            "insufficient",
            "scores outside [0, 1]: 25; give shares of right answers; divide percentages by 100",
        ),
        ({"score": JUMP - 0.5}, "insufficient", "scores outside [0, 1]: -0.25"),
        ({"score": np.nan}, "insufficient", "no row has a score and a place above 0; check --metric"),
        ({"chance": 25}, "insufficient", "chance outside [0, 1): 25"),
        ({"n_items": 0}, "insufficient", "item counts below 1; --items names"),
        ({"score": 0.5}, "flat", "every score is 0.5"),
    ],
)
def test_scores_that_say_nothing_are_answered(tmp_path, change, label, said):
    path = table(tmp_path, bad=JUMP, good=JUMP)
    frame = pd.read_csv(path)
    bad = frame.task == "bad"
    pd.concat([frame[bad].assign(**change), frame[~bad]]).to_csv(path, index=False)
    first, second = found(path).tasks
    assert first.label == label
    assert said in first.because
    assert second.flagged


def test_two_sizes_are_too_few_and_the_command_exits_with_1(tmp_path, scalectl):
    path = table(tmp_path, jump=JUMP)
    pd.read_csv(path)[:2].to_csv(path, index=False)
    done = scalectl("fit", path, "--kind", "score", cwd=tmp_path, code=1)
    assert "2 sizes; a break takes at least 5" in done.stdout


def test_without_item_counts_it_asks_for_them_and_falls_back(tmp_path):
    path = table(tmp_path, jump=JUMP)
    pd.read_csv(path).drop(columns="n_items").to_csv(path, index=False)
    view = found(path)
    assert any("--items COL names one" in note for note in view.notes)
    assert any("errors from the scatter about a curve that never falls" in note for note in view.notes)
    frame = pd.read_csv(path)
    rng = np.random.default_rng(0)
    seeds = [frame.assign(seed=k, score=frame.score + 0.02 * rng.standard_normal(8)) for k in range(5)]
    pd.concat(seeds).to_csv(path, index=False)
    view = found(path)
    assert any("errors from the scatter between seeds" in note for note in view.notes)
    assert view.tasks[0].flagged
    assert {place.seeds for place in view.tasks[0].places} == {5}


@pytest.mark.parametrize(
    ("asked", "more", "error", "said"),
    [
        (Asked(items="itmes"), {}, UsageError, "--items"),
        (Asked(chance="2"), {}, UsageError, "--chance 2"),
        (Asked(chance="nowhere"), {}, UsageError, "--chance"),
        (Asked(floor="high"), {}, UsageError, "--floor"),
        (Asked(axis="M"), {}, UsageError, "--axis"),
        (Asked(axis="C"), {}, UsageError, "is plainly C"),
        (Asked(), {"maps": ("S=scroe",)}, UsageError, "--map S"),
        (Asked(), {"laws": ("power",)}, UsageError, "--law is for laws of a loss"),
        (Asked(), {"best_over": "lr"}, UsageError, "--best-over is for laws of a loss"),
        (Asked(), {"tie": ("alpha=beta",)}, UsageError, "--tie is for laws of a loss"),
        (Asked(), {"weight": "n_items"}, UsageError, "--weight is for laws of a loss"),
        (Asked(), {"group": "task"}, UsageError, "--group is for laws of a loss"),
        (Asked(), {"holdout": "rollout"}, UsageError, "--holdout is for laws of a loss"),
        (Asked(foreign=("--profile",)), {}, UsageError, "--profile is for laws of a loss"),
        (Asked(), {"metric": "f1"}, UsageError, '--metric "f1" is no column'),
        (Asked(), {"metric": "score", "maps": ("S=chance",)}, UsageError, "--metric and --map S both name the score"),
        (Asked(), {"draws": 20}, UsageError, "20 resamples are too few"),
        (Asked(), {"where": 'task == "none"'}, NothingMatched, "no row answers"),
    ],
)
def test_flags_that_do_not_fit_are_refused(tmp_path, asked, more, error, said):
    with pytest.raises(error, match=said):
        found(table(tmp_path, jump=JUMP), asked, **more)


@pytest.mark.parametrize("flag", ["--profile E", "--approach 2", "--against published", "--diagnostics"])
def test_flags_of_laws_are_refused_on_the_command_line(tmp_path, scalectl, flag):
    done = scalectl("fit", table(tmp_path, jump=JUMP), "--kind", "score", *flag.split(), cwd=tmp_path, code=2)
    assert f"{flag.split()[0]} is for laws of a loss" in done.stderr


def test_the_metric_of_a_table_is_a_column(tmp_path):
    path = table(tmp_path, line=JUMP)
    pd.read_csv(path).assign(f1=LINE).to_csv(path, index=False)
    view = found(path, metric="f1")
    assert [place.score for place in view.tasks[0].places] == pytest.approx(LINE)
    assert not any("the score from" in note for note in view.notes)


def test_the_level_is_that_of_the_interval_of_the_midpoint(tmp_path, scalectl):
    path = table(tmp_path, jump=np.r_[np.full(4, 0.25), 0.32, 0.6, 0.75, 0.78])
    levels, widths = [], []
    for flags in ((), ("--level", "0.5"), ("--level", "0.99")):
        held = json.loads(scalectl("fit", path, "--kind", "score", "--json", *flags, cwd=tmp_path).stdout)
        low, high = held["tasks"][0]["interval"]
        levels.append(held["level"])
        widths.append(high - low)
    assert levels == [0.9, 0.5, 0.99]
    assert widths[1] < widths[0] < widths[2]


def test_a_table_without_a_score_says_what_it_has(tmp_path):
    path = table(tmp_path, jump=JUMP)
    pd.read_csv(path).rename(columns={"score": "result"}).to_csv(path, index=False)
    with pytest.raises(UsageError, match="plainly a score") as raised:
        found(path)
    assert "--map S=COLUMN" in raised.value.remedy
    assert "result" in raised.value.where


def test_a_table_of_scores_is_pointed_to_the_detector(tmp_path, scalectl):
    done = scalectl("fit", table(tmp_path, jump=JUMP), cwd=tmp_path, code=2)
    assert "scores are fitted with --kind score" in done.stderr


def test_along_the_loss_places_are_losses_and_fall_with_it(tmp_path):
    path = table(tmp_path, jump=JUMP)
    loss = 4 * (N / N[0]) ** -0.1
    pd.read_csv(path).assign(loss=loss).to_csv(path, index=False)
    task = found(path, Asked(axis="loss")).tasks[0]
    assert task.bracket == pytest.approx((loss[4], loss[3]))
    assert loss[4] < task.midpoint < loss[3]
    assert task.interval[0] < task.midpoint < task.interval[1]
    edge = np.r_[np.full(7, 0.25), 0.8]
    pd.read_csv(table(tmp_path, edge=edge)).assign(loss=loss).to_csv(path, index=False)
    task = found(path, Asked(axis="loss")).tasks[0]
    assert "only the smallest loss is above: the threshold is an upper bound" in task.because
    falls = np.r_[0.25, 0.3, 0.5, 0.8, 0.75, 0.5, 0.3, 0.25]
    pd.read_csv(table(tmp_path, falls=falls)).assign(loss=loss).to_csv(path, index=False)
    task = found(path, Asked(axis="loss")).tasks[0]
    assert f"it falls from 0.8 at {loss[3]:.3g} to 0.25 at {loss[7]:.3g}" in task.because


def test_the_json_has_the_keys_that_scripts_rely_on(tmp_path, scalectl):
    path = table(tmp_path, jump=JUMP, line=LINE)
    done = scalectl("fit", path, "--kind", "score", "--json", "--bootstrap", "200", cwd=tmp_path)
    held = json.loads(done.stdout)
    assert next(iter(held)) == "schema"
    assert held["schema"] == "scalectl/threshold@1"
    assert held["axis"] == "N"
    keys = ["task", "family", "label", "bracket", "midpoint", "interval", "width_decades", "gain", "p_value", "q_value"]
    keys += ["artefact", "because"]
    assert all(set(keys) <= set(task) for task in held["tasks"])
    assert held["tasks"][0]["bracket"] == [pytest.approx(N[3]), pytest.approx(N[4])]
    assert held["tasks"][1]["bracket"] is None


def test_the_screen_has_a_line_for_each_task_and_a_plot_of_the_jump(tmp_path, scalectl):
    path = table(tmp_path, jump=JUMP, line=LINE)
    done = scalectl("fit", path, "--kind", "score", cwd=tmp_path, COLUMNS="80")
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "2 curves, 1 with a jump along N [parameters]" in lines
    assert done.stdout.count("●") == 8
    (row,) = [line for line in lines if line.lstrip().startswith("jump  break")]
    assert "316 M … 1 B" in row  # units differ
    assert re.search(r"  \d+ … \d+ M  ", row)  # one unit for both ends
    assert any(line.startswith("line: smooth, a straight line") for line in lines)


# Exact match of sums of three digits after 600 steps: two layers, widths 8 to 32, heads of size 4, five seeds each.
# Source: LOG.md.
SUMS = {
    1760: (0.008, 0.006, 0.007, 0.008, 0.009),
    3792: (0.008, 0.008, 0.010, 0.008, 0.007),
    6592: (0.101, 0.007, 0.050, 0.010, 0.009),
    10160: (0.009, 0.005, 0.013, 0.011, 0.833),
    14496: (0.105, 0.088, 0.374, 0.854, 0.011),
    25472: (0.933, 0.965, 0.960, 0.979, 0.903),
}


@pytest.fixture
def sums(tmp_path):
    rows = [(size, seed, score) for size, scores in SUMS.items() for seed, score in enumerate(scores)]
    frame = pd.DataFrame(rows, columns=["params", "seed", "exact_match"]).assign(items=1024, chance=0.001)
    frame.to_csv(tmp_path / "sums.csv", index=False)
    return tmp_path / "sums.csv"


@pytest.mark.parametrize("seed", range(5))
def test_one_seed_of_a_jump_by_luck_gets_no_threshold(sums, seed):
    (task,) = found(sums, where=f"seed == {seed}").tasks
    if seed == 4:  # it can at 10 k, and not at 14 k
        assert task.label == "flat"
    else:
        assert task.flagged
        assert task.because.startswith("single seed: threshold not identified")
    assert (task.bracket, task.midpoint, task.interval) == (None, None, None)


def test_a_table_without_a_threshold_has_no_columns_for_one(sums, scalectl):
    one = ("--where", "seed == 0", "--twin", "exact_match")
    screen = scalectl("fit", sums, "--kind", "score", *one, cwd=sums.parent).stdout
    assert "threshold not identified" in " ".join(screen.split())
    assert "by the metric" in screen
    assert "midpoint" not in screen


def test_five_seeds_of_a_jump_by_luck_are_of_two_kinds(sums, scalectl):
    (task,) = found(sums).tasks
    assert task.label == "bimodal"
    assert [place.able for place in task.places] == [0, 0, 0, 0.2, 0.2, 1]
    screen = " ".join(scalectl("fit", sums, "--kind", "score", cwd=sums.parent).stdout.split())
    assert "each jumps by luck of its own" in screen
    assert "10.2 k: 0.20 (0.05 … 0.56, 5 seeds), 14.5 k: 0.20 (0.05 … 0.56, 5 seeds), 25.5 k: 1.00" in screen


def test_a_metric_says_by_its_name_what_it_is():
    assert all(map(is_score, ("exact_match", "held-out/exact_match", "task-3/position_accuracy_02", "accuracy")))
    assert not any(map(is_score, ("loss", "held-out/loss", "answer_logprob", "chance", "items", "my_accuracy_loss")))
    assert means_score(Request(target="x", metric="exact_match"))
    assert not means_score(Request(target="x", metric="exact_match", laws=("score-sigmoid",)))
    assert means_score(Request(target="ref:bigbench-lite"))
    assert not means_score(Request(target="ref:gemstones"))


@pytest.mark.parametrize(
    ("row", "change"),
    [(7, {"loss": np.nan}), (0, {"params": 0.0}), (0, {"params": np.nan})],
    ids=["no loss", "size 0", "no size"],
)
def test_losses_that_the_fit_leaves_out_make_no_gain_and_are_said_to_be(tmp_path, row, change):
    frame = pd.DataFrame({"params": N, "loss": 3 * (N / N[0]) ** -0.1})
    frame.drop(index=row).to_csv(tmp_path / "without.csv", index=False)
    frame.loc[row, list(change)] = list(change.values())
    frame.to_csv(tmp_path / "losses.csv", index=False)
    view, without = found(tmp_path / "losses.csv"), found(tmp_path / "without.csv")
    assert view.tasks[0].gain == without.tasks[0].gain
    assert view.tasks[0].places == without.tasks[0].places
    assert "1 of 8 rows without a loss, or a place above 0, are left out" in view.notes
    assert not any("left out" in note for note in without.notes)


@pytest.mark.parametrize(
    ("name", "measures"),
    [
        ("glossary", "score"),
        ("bits_correct", "score"),
        ("train_loss", "loss"),
        ("logloss", "loss"),
        ("answerNLL", "loss"),
        ("bits_per_byte", "loss"),
        ("PPL", "loss"),
    ],
)
def test_whole_words_of_a_name_make_a_loss(tmp_path, name, measures):
    pd.DataFrame({"params": N, name: JUMP + 1 * (measures == "loss")}).to_csv(tmp_path / "x.csv", index=False)
    view = found(tmp_path / "x.csv", maps=(f"S={name}",))
    assert view.measures == measures
    assert (f"{name} is taken as its log, which is a loss" in view.notes) == (name == "PPL")


def test_a_perplexity_is_a_twin_by_its_log(tmp_path):
    path = table(tmp_path, jump=JUMP)
    nll = 3 * (N / N[0]) ** -0.3
    pd.read_csv(path).assign(ppl=np.exp(nll)).to_csv(path, index=False)
    task = found(path, Asked(twin="ppl")).tasks[0]
    assert task.twin.loss == pytest.approx(nll)
    assert task.artefact == "metric-driven"  # exp of a power law is no line, and would bend


@pytest.mark.parametrize("items", [500, None], ids=["500 items", "no count"])
def test_a_twin_that_is_rounded_to_1_makes_no_bend(tmp_path, items):
    right = 1 - 0.6 * (N / N[0]) ** -0.6
    path = table(tmp_path, exact=right**14)
    frame = pd.read_csv(path).assign(chance=0.0, right=np.round(right, 2), n_items=items)
    assert frame.right.iloc[-1] == 1
    frame.to_csv(path, index=False)
    assert found(path, Asked(twin="right")).tasks[0].artefact != "genuine"


@pytest.mark.parametrize(
    ("name", "values", "said", "loss"),
    [
        ("logloss", np.linspace(0.9, 0.3, 8), "a loss [nats]", np.linspace(0.9, 0.3, 8)),
        ("log_loss", np.linspace(0.9, 0.3, 8), "a loss [nats]", np.linspace(0.9, 0.3, 8)),
        ("bpb", np.linspace(0.9, 0.3, 8), "a loss [bits]", np.log(2) * np.linspace(0.9, 0.3, 8)),
        ("brier", np.linspace(0.9, 0.3, 8), "a loss [nats]", np.linspace(0.9, 0.3, 8)),
        ("right", np.linspace(0.3, 0.9, 8), "a probability", -np.log(np.linspace(0.3, 0.9, 8))),
        ("bits_correct", np.linspace(0.3, 0.9, 8), "a probability", -np.log(np.linspace(0.3, 0.9, 8))),
        ("logprob", np.linspace(-3, -1, 8), "a log-probability", np.linspace(3, 1, 8)),
        ("ppl", np.linspace(3, 2, 8), "the log of a perplexity", np.log(np.linspace(3, 2, 8))),
    ],
)
def test_how_a_twin_is_read_is_said(tmp_path, name, values, said, loss):
    path = table(tmp_path, jump=JUMP)
    pd.read_csv(path).assign(**{name: values}).to_csv(path, index=False)
    view = found(path, Asked(twin=name))
    assert f"twin {name} read as {said}" in view.notes
    assert view.tasks[0].twin.loss == pytest.approx(loss)


def test_a_twin_is_read_in_one_way_for_all_tasks(tmp_path):
    path = table(tmp_path, hard=JUMP, easy=JUMP)
    nats = np.r_[2, 1.9, 1.8, 1.7, 0.9, 0.8, 0.7, 0.6, 0.99, 0.95, 0.9, 0.85, 0.4, 0.3, 0.2, 0.1]
    pd.read_csv(path).assign(cost=nats).to_csv(path, index=False)  # in [0, 1] for one of them
    view = found(path, Asked(twin="cost"))
    assert np.concatenate([task.twin.loss for task in view.tasks]) == pytest.approx(nats)
    assert [note for note in view.notes if "twin" in note] == ["twin cost read as a loss [nats]"]


there = pytest.mark.skipif(
    not (PUBLISHED / "bigbench_lite").exists(), reason=f"the published tables are not at {PUBLISHED}"
)


@there
def test_big_bench_flags_what_wei_et_al_list_and_nothing_else(monkeypatch):
    monkeypatch.setenv("SCALECTL_REFERENCES", str(PUBLISHED))
    view = found("ref:bigbench-lite", where='family == "BIG-G T=0"', draws=1000)
    frame = pd.read_csv(PUBLISHED / "bigbench_lite/bigbench_lite_long.csv")
    wei = set(frame.task[frame.wei2022_emerges_at.notna()])
    flagged = {task.task: task for task in view.tasks if task.flagged}
    assert {"hindu_knowledge", "strange_stories", "logical_deduction"} <= set(flagged) <= wei
    hindu = flagged["hindu_knowledge"]
    assert hindu.label == "edge"
    assert hindu.bracket == (27e9, 128e9)
    assert hindu.midpoint is None or np.isnan(hindu.midpoint)
    translation = next(task for task in view.tasks if task.task == "conlang_translation")
    assert translation.label == "insufficient"  # BLEU, not a share
    assert {task.label for task in view.tasks if task.task in ("operators", "novel_concepts")} == {"smooth"}


@there
def test_big_bench_is_known_by_its_name_on_the_command_line(scalectl, tmp_path):
    flags = ("--where", 'family == "BIG-G T=0" and task == "hindu_knowledge"')
    done = scalectl("fit", "ref:bigbench-lite", *flags, cwd=tmp_path, SCALECTL_REFERENCES=str(PUBLISHED))
    assert "above 27 B" in done.stdout
    assert "arXiv 2206.04615" in done.stdout
    assert "a lower bound" in done.stdout


def test_losses_are_a_power_law_or_break(tmp_path, scalectl):
    # as of sparse parities (emergence.md): one bit, and then a tenth of it
    rng = np.random.default_rng(0)
    scatter = np.exp(0.03 * rng.standard_normal((2, 8)))
    parity = np.where(N < 6e8, 1.02, 0.10) * (N / N[0]) ** -0.02 * scatter[0]
    smooth = 3 * (N / N[0]) ** -0.1 * scatter[1]
    frames = [
        pd.DataFrame({"params": N, "task": name, "loss": loss}) for name, loss in (("parity", parity), ("all", smooth))
    ]
    pd.concat(frames).to_csv(tmp_path / "losses.csv", index=False)
    view = found(tmp_path / "losses.csv")
    first, second = view.tasks
    assert view.measures == "loss"
    assert (first.label, first.artefact) == ("emergent (break beyond a smooth law)", "genuine")
    assert first.bracket[0] < 6e8 < first.bracket[1]
    assert (second.label, second.bracket) == ("smooth", None)
    screen = scalectl("fit", "losses.csv", "--kind", "score", cwd=tmp_path, COLUMNS="80").stdout
    assert "the loss itself bends at" in screen
    assert max(map(len, screen.splitlines())) <= 80

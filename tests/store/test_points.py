"""Points are the runs that may be pooled, and nothing else goes into a fit unsaid."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scalectl.core.errors import NothingMatched, UsageError
from scalectl.core.job import State
from scalectl.core.rows import Points, Row
from scalectl.core.run import record
from scalectl.store.points import load_points, ordered, places, table_points, vary
from scalectl.store.sweeps import save_sweep

WIDTHS = (8, 16, 32)


@pytest.fixture
def ladder(store, lab):
    """A function that stores a sweep of these runs, all done."""

    def make(runs, name="ladder"):
        for run in runs:
            lab.stored(store, run)
        save_sweep(store, name, "", [{"run_id": run.run_id, "config": record(run)} for run in runs])
        return sorted(runs, key=lambda run: run.run_id)

    return make


def grid(lab, **more):
    return [lab.run(d_model=d_model, seed=seed, **more) for d_model in WIDTHS for seed in (0, 1)]


def test_a_finished_sweep_gives_one_point_per_run_sorted_by_id(store, lab, ladder):
    runs = ladder(grid(lab))
    points = load_points(store, "ladder")
    assert points.ids == tuple(run.run_id for run in runs)
    np.testing.assert_array_equal(points.L, [lab.loss(run) for run in runs])
    np.testing.assert_array_equal(points.N, [lab.N(run) for run in runs])
    np.testing.assert_array_equal(points.D, [run.tokens for run in runs])
    np.testing.assert_array_equal(points.C, [6 * lab.N(run) * run.tokens for run in runs])
    np.testing.assert_array_equal(points.seed, [run.seed for run in runs])
    np.testing.assert_array_equal(points.size, points.N)
    np.testing.assert_array_equal(points.columns["model.d_model"], [run.model.options.d_model for run in runs])
    assert (points.metric, points.convention, points.flops) == ("held-out/loss", "non_embedding", "6nd")
    assert points.notes == ()


@pytest.mark.parametrize(("convention", "factor", "offset"), [("total", 2, 0), ("matmul", 1, 100)])
def test_the_convention_decides_what_counts_as_N_and_is_named(store, lab, ladder, convention, factor, offset):
    runs = ladder(grid(lab))
    points = load_points(store, "ladder", convention=convention)
    np.testing.assert_array_equal(points.N, [factor * lab.N(run) + offset for run in runs])
    np.testing.assert_array_equal(points.C, 6 * points.N * points.D)
    assert points.convention == convention


def test_exact_flops_are_those_of_the_rows(store, lab, ladder):
    runs = ladder(grid(lab))
    points = load_points(store, "ladder", flops="exact")
    np.testing.assert_array_equal(points.C, [lab.rows(run)[-1].flops for run in runs])
    assert points.flops == "exact"


def test_a_metric_without_a_split_is_held_out_and_train_is_there_too(store, lab, ladder):
    runs = ladder(grid(lab))
    assert load_points(store, "ladder", "bits_per_byte").metric == "held-out/bits_per_byte"
    np.testing.assert_allclose(load_points(store, "ladder", "train/loss").L, [lab.loss(run) + 0.01 for run in runs])


def test_a_metric_that_no_run_has_is_answered_with_those_that_are_there(store, lab, ladder):
    ladder(grid(lab))
    with pytest.raises(NothingMatched) as caught:
        load_points(store, "ladder", "held-out/accuracy")
    for name in ("held-out/loss", "held-out/loss_se", "held-out/bits_per_byte", "train/loss"):
        assert name in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_run_without_the_metric_is_left_out_and_said(store, lab):
    with_loss, without = lab.run(seed=0), lab.run(seed=1)
    lab.stored(store, with_loss)
    lab.stored(store, without, rows=[row for row in lab.rows(without) if row.split == "train"])
    save_sweep(store, "s", "", [{"run_id": run.run_id, "config": {}} for run in (with_loss, without)])
    points = load_points(store, "s")
    assert points.ids == (with_loss.run_id,)
    assert points.columns["run_id"].tolist() == [with_loss.run_id]
    assert points.notes == ("1 run left out: no held-out/loss",)


@pytest.mark.parametrize(
    ("at", "pick"), [("last", lambda v: v[-1]), ("min", min), ("mean:2", lambda v: sum(v[-2:]) / 2)]
)
def test_at_says_which_evaluation_counts(store, lab, at, pick):
    run = lab.run()
    losses = [3.0, 1.0, 2.0]
    rows = [Row(run.run_id, 10 * i, i, 1.0, "held-out", "loss", loss, 1.0) for i, loss in enumerate(losses, 1)]
    lab.stored(store, run, rows=rows)
    save_sweep(store, "s", "", [{"run_id": run.run_id, "config": {}}])
    np.testing.assert_array_equal(load_points(store, "s", at=at).L, [pick(losses)])


@pytest.mark.parametrize("at", ["first", "mean", "mean:0", "mean:-1", "mean:x", ""])
def test_an_unknown_at_is_a_usage_error(store, lab, ladder, at):
    ladder(grid(lab))
    with pytest.raises(UsageError, match="--at"):
        load_points(store, "ladder", at=at)


def test_diverged_failed_and_missing_runs_are_left_out_and_said(store, lab):
    done, diverged, failed, pending = (lab.run(seed=seed) for seed in range(4))
    lab.stored(store, done)
    lab.stored(store, diverged, state=State.DIVERGED, rows=lab.rows(diverged)[:4])
    lab.stored(store, failed, state=State.FAILED, rows=[])
    save_sweep(store, "s", "", [{"run_id": r.run_id, "config": {}} for r in (done, diverged, failed, pending)])
    points = load_points(store, "s")
    assert points.ids == (done.run_id,)
    text = "\n".join(points.notes)
    assert f"1 diverged run left out: {diverged.run_id[:6]}" in text
    assert f"1 failed run left out: {failed.run_id[:6]}" in text
    assert "1 run left out: not ended yet" in text


def test_a_sweep_without_a_finished_run_matches_nothing(store, lab):
    run = lab.run()
    lab.stored(store, run, state=State.DIVERGED)
    save_sweep(store, "s", "", [{"run_id": run.run_id, "config": {}}])
    with pytest.raises(NothingMatched, match="no finished run"):
        load_points(store, "s")
    save_sweep(store, "empty", "", [])
    with pytest.raises(NothingMatched, match="it has no runs"):
        load_points(store, "empty")


@pytest.mark.parametrize("others", [0, 1])
def test_a_sweep_whose_runs_are_all_pending_matches_nothing_and_says_what_is_missing(store, lab, others):
    for seed in range(others):
        lab.stored(store, lab.run(seed=9 + seed))
    save_sweep(store, "s", "", [{"run_id": lab.run(seed=seed).run_id, "config": {}} for seed in range(2)])
    with pytest.raises(NothingMatched, match="none of its 2 runs has ended") as caught:
        load_points(store, "s", where=lambda columns: columns["model.d_model"] > 8)
    assert "scalectl status s" in str(caught.value)


def test_earlier_runs_join_only_when_all_are_asked_for(store, lab, ladder):
    ladder(grid(lab))
    kept = ladder(grid(lab)[:2])
    points = load_points(store, "ladder")
    assert set(points.ids) == {run.run_id for run in kept}
    assert any(note.startswith("4 runs of earlier versions") for note in points.notes)
    assert len(load_points(store, "ladder", all=True)) == 6


def test_where_picks_by_columns(store, lab, ladder):
    ladder(grid(lab))
    points = load_points(store, "ladder", where=lambda columns: columns["model.d_model"] > 8)
    assert set(points.columns["model.d_model"]) == {16, 32}


@pytest.mark.parametrize(
    ("name", "changed"), [("data.fingerprint", {"fingerprint": "beef"}), ("eval.tokens", {"held_out_tokens": 512})]
)
def test_losses_on_different_data_are_never_pooled_unless_split(store, lab, ladder, name, changed):
    ladder(grid(lab) + grid(lab, **changed))
    with pytest.raises(UsageError) as caught:
        load_points(store, "ladder")
    assert "never pooled" in str(caught.value)
    for value in changed.values():
        assert f"{name} is" in str(caught.value)
        assert str(value) in str(caught.value)
    assert len(load_points(store, "ladder", by=name)) == 12
    value = next(iter(changed.values()))
    assert len(load_points(store, "ladder", where=lambda columns: columns[name] == value)) == 6
    with pytest.raises(UsageError, match="never pooled"):
        load_points(store, "ladder", by="train.seed")


def test_the_last_word_of_a_column_is_enough_to_split_by(store, lab, ladder):
    ladder(grid(lab) + grid(lab, fingerprint="beef"))
    assert len(load_points(store, "ladder", by="fingerprint")) == 12


@pytest.mark.parametrize(("at", "flops"), [("last", "6nd"), ("min", "exact"), ("mean:2", "6nd")])
def test_where_sees_N_D_C_and_L_as_they_enter_the_fit(store, lab, ladder, at, flops):
    ladder(grid(lab))
    seen = {}

    def where(columns):
        seen.update(columns)
        return columns["N"] > 24 * 8**2

    points = load_points(store, "ladder", at=at, flops=flops, where=where)
    assert len(points) == 4
    for axis in ("N", "D", "C", "L"):
        np.testing.assert_array_equal(seen[axis][seen["N"] > 24 * 8**2], getattr(points, axis))


def test_splitting_by_an_unknown_column_is_a_usage_error(store, lab, ladder):
    ladder(grid(lab))
    with pytest.raises(UsageError, match=r"did you mean train\.seed"):
        load_points(store, "ladder", by="train.sead")


@pytest.mark.parametrize(("steps", "said"), [((781, 60), False), ((782, 60), True), ((782, 7812), True)])
def test_data_repeated_beyond_four_epochs_are_noted_with_the_most_epochs(store, lab, ladder, steps, said):
    """256 tokens a step of 50,000 unique ones: four epochs are 781.25 steps."""
    runs = ladder([lab.run(steps=number) for number in steps])
    notes = [note for note in load_points(store, "ladder").notes if "epochs" in note]
    assert len(notes) == said
    if said:
        over = [run.tokens / 50_000 for run in runs if run.tokens > 200_000]
        assert notes[0].startswith(f"{len(over)} run")
        assert f"(up to {max(over):.3g})" in notes[0]


def test_unknown_flops_are_a_usage_error(store, lab, ladder):
    ladder(grid(lab))
    with pytest.raises(UsageError, match="flops"):
        load_points(store, "ladder", flops="8nd")


# --- axes that a fit must not pool -----------------------------------------------------------------------------------


def test_a_ladder_over_width_and_seed_has_no_further_axis(store, lab, ladder):
    ladder(grid(lab))
    assert vary(load_points(store, "ladder")) == ()


def test_a_learning_rate_that_follows_the_width_is_no_axis(store, lab, ladder):
    ladder([lab.run(d_model=d_model, lr=0.08 / d_model, seed=seed) for d_model in WIDTHS for seed in (0, 1)])
    assert vary(load_points(store, "ladder")) == ()


def test_a_grid_of_learning_rates_is_an_axis(store, lab, ladder):
    ladder([lab.run(d_model=d_model, lr=lr) for d_model in WIDTHS for lr in (0.01, 0.003)])
    assert vary(load_points(store, "ladder")) == ("train.lr",)


def test_a_rate_that_varies_at_one_width_only_is_an_axis(store, lab, ladder):
    ladder([lab.run(d_model=d_model) for d_model in WIDTHS] + [lab.run(d_model=8, lr=0.003)])
    assert vary(load_points(store, "ladder")) == ("train.lr",)


def test_a_horizon_is_D_and_no_further_axis(store, lab, ladder):
    ladder([lab.run(d_model=d_model, steps=steps) for d_model in WIDTHS for steps in (60, 120, 240)])
    assert vary(load_points(store, "ladder")) == ()


def test_batch_sizes_that_round_one_horizon_differently_are_an_axis(store, lab, ladder):
    tokens = 100_000
    ladder([lab.run(sequences=sequences, steps=tokens // (32 * sequences)) for sequences in (7, 15)])
    points = load_points(store, "ladder")
    assert len(set(points.D)) == 2
    assert vary(points) == ("train.batch_tokens",)


def repeated(unique, epochs):
    """Four sizes, each with its own amount of distinct data."""
    N, D = np.geomspace(1e4, 1e7, 4), np.full(4, 1e6)
    return Points(L=np.ones(4), N=N, D=D, columns={"data.unique_tokens": np.array(unique), "epochs": np.array(epochs)})


def test_amounts_of_distinct_data_are_never_pooled_where_any_run_repeats_its_data():
    assert vary(repeated([1e6, 1e6, 5e5, 5e5], [1.0, 1.0, 2.0, 2.0])) == ("data.unique_tokens",)
    assert vary(repeated([None, None, 5e5, 5e5], [0.1, 0.1, 2.0, 2.0])) == ("data.unique_tokens",)
    assert vary(repeated([1e6, 2e6, 4e6, 8e6], [1.0, 0.5, 0.25, 0.125])) == ()
    assert vary(repeated([5e5, 5e5, 5e5, 5e5], [2.0, 2.0, 2.0, 2.0])) == ()


def test_two_kinds_of_positions_are_an_axis_however_parameters_are_counted():
    columns = {
        "model.position": np.array(["learned", "rotary"] * 2, dtype=object),
        "N_total": np.array([110.0, 100.0, 220.0, 200.0]),
        "N_non_embedding": np.array([90.0, 90.0, 190.0, 190.0]),
    }
    for N in ("N_total", "N_non_embedding"):
        assert vary(Points(L=np.ones(4), N=columns[N], D=np.ones(4), columns=columns)) == ("model.position",)


def test_data_that_differ_are_named_by_their_setting(store, lab, ladder):
    ladder(grid(lab) + grid(lab, fingerprint="beef"))
    assert vary(load_points(store, "ladder", by="data.fingerprint")) == ("data.fingerprint",)


def test_columns_of_a_table_vary_where_asked(tmp_path):
    points = table_points(
        pd.DataFrame({"N": [1, 1, 2, 2], "loss": [4, 3, 2, 1.0], "lr": [1, 2, 1, 2], "w": [1, 1, 5, 5]})
    )
    assert vary(points, ["lr", "w"]) == ("lr",)
    assert vary(points) == ("lr",)
    assert vary(points, within="lr") == ()


def test_close_budgets_are_not_chained_into_one_place():
    D = np.geomspace(1e8, 1e9, 400)  # checkpoints .6 % apart
    assert places(Points(L=D, N=np.full(400, 1e6), D=D)).max() > 90
    fine = Points(L=np.ones(4), N=np.array([1.0, 1.0, 2.0, 2.0]), D=np.array([1000.0, 1015.0, 1030.0, 1040.0]))
    assert places(fine).tolist() == [0, 0, 1, 1]


# --- tables ----------------------------------------------------------------------------------------------------------

TABLE = pd.DataFrame({"N": [1e6, 2e6, 3e6], "D": [1e8, 2e8, 3e8], "L": [4.0, 3.0, 2.0]})


@pytest.mark.parametrize("missing", ["N", "D", "C"])
def test_two_of_N_D_C_give_the_third(missing):
    full = TABLE.assign(C=6 * TABLE["N"] * TABLE["D"])
    points = table_points(full.drop(columns=missing))
    for axis in ("N", "D", "C"):
        np.testing.assert_allclose(points.axis(axis), full[axis], rtol=1e-15)
    assert points.derived == missing
    assert f"{missing} is computed through C = 6 N D" in points.notes


def test_three_given_axes_are_all_kept():
    points = table_points(TABLE.assign(C=[1.0, 2.0, 3.0]))
    assert points.C.tolist() == [1.0, 2.0, 3.0]
    assert points.derived is None


def test_one_axis_alone_is_enough():
    points = table_points(TABLE[["D", "L"]])
    assert points.axes() == ("D",)
    assert points.size is None


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_is_read_and_obvious_names_are_found(tmp_path, suffix):
    path = tmp_path / f"runs.{suffix}"
    frame = pd.DataFrame({"n_params": [10, 20], "Tokens": [5, 6], "Loss": [3.0, 2.0], "Seed": [0, 1], "n": [7, 7]})
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    points = table_points(path)
    assert (points.N.tolist(), points.D.tolist(), points.L.tolist()) == ([10, 20], [5, 6], [3.0, 2.0])
    assert points.seed.tolist() == [0, 1]
    assert points.ids == ("1", "2")
    assert points.metric == "Loss"
    assert set(points.columns) == set(frame.columns)
    assert "N is read from the column n_params" in points.notes


def test_a_mapping_goes_before_obvious_names():
    frame = TABLE.assign(val=[9.0, 8.0, 7.0])
    assert table_points(frame, {"L": "val"}).L.tolist() == [9.0, 8.0, 7.0]


def test_an_unknown_column_is_answered_with_the_one_that_was_meant_and_the_list():
    with pytest.raises(UsageError) as caught:
        table_points(TABLE.rename(columns={"L": "final_loss"}), {"L": "final_los"})
    assert "did you mean final_loss?" in str(caught.value)
    assert "it has N, D, final_loss" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "said"),
    [({"N": [1], "x": [2.0]}, "plainly the loss"), ({"x": [1], "loss": [2.0]}, "plainly N, D or C")],
)
def test_a_table_without_an_axis_says_which_flag_names_it(columns, said):
    with pytest.raises(UsageError, match=said) as caught:
        table_points(pd.DataFrame(columns))
    assert "--map" in str(caught.value)


def test_axes_in_one_map_separated_by_commas_are_answered_with_how_to_repeat_it():
    with pytest.raises(UsageError) as caught:
        table_points(pd.DataFrame({"n": [1], "t": [2], "loss": [2.0]}), {"N": "n,D=t"})
    assert caught.value.remedy == "repeat --map for each axis: --map N=n --map D=t"


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"D": [1], "x": [2.0]}, "plainly N, and none the loss"),
        ({"x": [1], "y": [2.0]}, "plainly N, D or C, and none the loss"),
    ],
)
def test_a_missing_size_is_said_before_a_missing_loss(columns, said):
    with pytest.raises(UsageError, match=said) as caught:
        table_points(pd.DataFrame(columns))
    assert "--map N=COLUMN --map L=COLUMN" in str(caught.value)


def test_at_most_twelve_columns_are_listed():
    with pytest.raises(UsageError) as caught:
        table_points(pd.DataFrame({f"x{i}": [1] for i in range(40)}))
    assert "x11 and 28 more" in str(caught.value)
    assert "x12" not in str(caught.value)


def test_where_sees_the_axes_of_a_table_by_their_names():
    frame = pd.DataFrame({"params": [1e6, 2e6], "tokens": [1e8, 2e8], "loss": [4.0, 3.0]})
    for axis, least in (("N", 1e6), ("D", 1e8), ("C", 6e14)):
        assert table_points(frame, where=lambda columns, axis=axis, least=least: columns[axis] > least).ids == ("2",)


def test_an_unknown_axis_in_a_mapping_is_a_usage_error():
    with pytest.raises(UsageError, match="not an axis"):
        table_points(TABLE, {"Q": "N"})


def test_rows_without_a_number_are_dropped_and_counted():
    frame = TABLE.assign(L=[4.0, np.nan, np.inf])
    points = table_points(frame)
    assert points.ids == ("1",)
    assert any(note == "rows left out for want of a number in N, D, L: 2" for note in points.notes)


@pytest.mark.parametrize("wrong", [0.0, -1.0])
@pytest.mark.parametrize("axis", ["N", "D", "L"])
def test_numbers_that_are_not_positive_are_refused_with_their_row(axis, wrong):
    frame = TABLE.astype(float)
    frame.loc[1, axis] = wrong
    with pytest.raises(UsageError, match=f"{axis} is {wrong:g} in row 2"):
        table_points(frame)
    assert len(table_points(frame, where=lambda columns: columns[axis] > 0)) == 2


def test_text_on_an_axis_is_refused_and_text_numbers_are_read():
    assert table_points(TABLE.astype(str)).L.tolist() == [4.0, 3.0, 2.0]
    with pytest.raises(UsageError, match='holds "many", which is no number'):
        table_points(TABLE.assign(N=["many", "2", "3"]))


def test_row_numbers_survive_a_filter():
    assert table_points(TABLE, where=lambda columns: columns["L"] < 4).ids == ("2", "3")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n"1,2\n3'])
def test_a_file_that_is_no_table_is_a_usage_error(tmp_path, content):
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        table_points(path)


def test_a_broken_parquet_file_and_a_missing_file_are_clear_errors(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match="cannot be read"):
        table_points(tmp_path / "x.parquet")
    with pytest.raises(NothingMatched, match="there is no file"):
        table_points(tmp_path / "y.csv")


def test_a_table_without_rows_matches_nothing():
    with pytest.raises(NothingMatched):
        table_points(TABLE[:0])


def test_sizes_read_off_a_plot_share_a_label():
    frame = TABLE.assign(N=[1.00001e6, 1.00002e6, 2e6])
    assert len(set(table_points(frame).size)) == 2


SHARED = Path(os.environ.get("SCALECTL_SHARED_DATA", Path(__file__).parents[2] / "../shared/data"))
EPOCH = SHARED / "epoch_chinchilla" / "svg_extracted_data.csv"


@pytest.mark.skipif(not EPOCH.exists(), reason="the published tables are not here")
def test_the_chinchilla_table_gives_240_points_in_file_order():
    mapping = {"N": "Model Size", "C": "Training FLOP", "L": "loss"}
    points = table_points(EPOCH, mapping, where=lambda columns: columns["loss"] < 3.44)
    frame = pd.read_csv(EPOCH)
    frame = frame[frame["loss"] < 3.44]
    assert len(points) == 240
    np.testing.assert_array_equal(points.L, frame["loss"])
    np.testing.assert_allclose(points.D, frame["Training FLOP"] / (6 * frame["Model Size"]), rtol=1e-15)
    assert points.derived == "D"


@pytest.mark.parametrize("ties", [False, True])
def test_rows_are_ordered_column_by_column_with_ties_and_without(ties):
    rng = np.random.default_rng(0)
    columns = [
        rng.integers(0, 5, 200).astype(float) if ties else rng.random(200),
        rng.integers(0, 3, 200),
        rng.random(200),
    ]
    table = [tuple(row) for row in np.stack(columns, 1)[ordered(columns)].tolist()]
    assert table == sorted(table)

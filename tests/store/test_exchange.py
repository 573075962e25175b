"""Other people's tables and other machines' stores in, results with their provenance out."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest

from scalectl.core.errors import BudgetRefused, NothingMatched, StoreError, UsageError
from scalectl.core.job import State
from scalectl.core.run import record
from scalectl.store import exchange
from scalectl.store.exchange import export, import_store, import_table
from scalectl.store.index import rebuild, refresh
from scalectl.store.layout import open_store
from scalectl.store.live import live, state_of
from scalectl.store.points import load_points, table_points, vary
from scalectl.store.reader import read_run
from scalectl.store.sweeps import load_sweep, save_sweep


@pytest.fixture
def other(tmp_path):
    made = open_store(tmp_path / "other")
    made.prepare()
    return made


def sweep_of(store, runs, name="s"):
    save_sweep(store, name, f'name = "{name}"\n', [{"run_id": run.run_id, "config": record(run)} for run in runs])


def test_an_export_has_one_row_per_run_with_its_provenance(store, lab):
    runs = [lab.run(seed=seed) for seed in range(2)]
    for run in runs:
        lab.stored(store, run)
    lab.stored(store, lab.run(seed=9))
    sweep_of(store, runs)
    frame = export(store, "s").set_index("run_id")
    assert set(frame.index) == {run.run_id for run in runs}
    assert frame.loc[runs[0].run_id, "held-out/loss"] == lab.loss(runs[0])
    assert set(frame["provenance.version"]) == {"0.1.0"}
    assert set(frame["provenance.source_digest"]) == {"abc"}


def test_a_long_export_has_every_measurement(store, lab):
    runs = [lab.run(seed=seed) for seed in range(2)]
    for run in runs:
        lab.stored(store, run)
    sweep_of(store, runs)
    frame = export(store, "s", long=True)
    assert len(frame) == sum(len(lab.rows(run)) for run in runs)
    assert set(frame["state"]) == {"done"}
    assert set(frame["provenance.host"]) == {"here"}
    assert not frame.isna().any().any()


def test_an_export_of_nothing_matches_nothing(store, lab):
    sweep_of(store, [lab.run()])
    with pytest.raises(NothingMatched, match="has ended"):
        export(store, "s")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("convention", ["non_embedding", "total"])
def test_an_export_gives_the_points_of_its_sweep_as_a_table_and_imported(
    store, other, lab, tmp_path, suffix, convention
):
    runs = [lab.run(d_model=d_model, seed=seed) for d_model in (8, 16, 32) for seed in range(2)]
    lost = lab.run(d_model=64)
    for run in runs:
        lab.stored(store, run)
    lab.stored(store, lost, state=State.DIVERGED, rows=lab.rows(lost)[:4])
    sweep_of(store, [*runs, lost])
    path = tmp_path / f"s.{suffix}"
    frame = export(store, "s")
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path, index=False)

    own = load_points(store, "s", convention=convention)
    direct = table_points(path, convention=convention)
    assert "1 run left out: not done" in direct.notes
    import_table(other, path, "theirs", convention=convention)
    again = load_points(other, "theirs", convention=convention)
    order = np.lexsort((own.seed, own.N))
    for points in (direct, again):
        same = np.lexsort((points.seed, points.N))
        for axis in ("N", "D", "C", "L", "seed"):
            np.testing.assert_array_equal(getattr(points, axis)[same], getattr(own, axis)[order])
        assert points.derived is None
        assert (points.convention, points.flops) == (own.convention, own.flops)
        assert vary(points) == vary(own) == ()
    for name in ("C_exact", "seconds", "N_matmul", "model.d_model", "data.fingerprint", "held-out/bits_per_byte"):
        assert sorted(again.columns[name]) == sorted(own.columns[name])
    assert {key for row in load_sweep(other, "theirs").rows for key in row} == {
        "run_id", "current", "config", "model.d_model", "train.seed",
    }  # fmt: skip
    sizes = [row["model.d_model"] for row in load_sweep(other, "theirs").rows]
    assert sizes == sorted(sizes)
    assert set(export(other, "theirs")["provenance.host"]) == {"here"}


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    frame = pd.DataFrame(
        {"params": [10, 20, 20, 20], "tokens": [100, 200, 200, 200], "loss": [4.0, 3.0, 3.5, 3.5], "lr": [1, 1, 2, 2]}
    )
    frame["seed"] = [0, 0, 1, 1]
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    return path


def test_an_imported_table_gives_the_points_of_the_table(store, table):
    notes = import_table(store, table, "theirs")
    assert "N is read from the column params" in notes
    direct, stored = table_points(table), load_points(store, "theirs")
    order = np.lexsort((stored.seed, stored.L, stored.N))
    for axis in ("N", "D", "C", "L"):
        np.testing.assert_array_equal(getattr(stored, axis)[order], getattr(direct, axis))
    assert stored.seed[order].tolist() == [0, 0, 1, 1]
    assert stored.metric == "held-out/loss"
    assert vary(stored, ["lr"]) == ("lr",)


def test_importing_twice_changes_nothing_and_equal_rows_are_several_runs(store, table):
    import_table(store, table, "theirs")
    before = {path.name: path.stat().st_mtime_ns for path in store.runs.iterdir()}
    assert len(before) == 4
    import_table(store, table, "theirs")
    assert {path.name: path.stat().st_mtime_ns for path in store.runs.iterdir()} == before
    assert len(load_sweep(store, "theirs").current) == 4
    assert load_sweep(store, "theirs").earlier == ()


def test_an_imported_table_counts_N_as_told_and_no_other_way(store, table):
    import_table(store, table, "theirs", convention="total")
    assert load_points(store, "theirs", convention="total").convention == "total"
    with pytest.raises(UsageError, match="use --convention total") as caught:
        load_points(store, "theirs")
    assert caught.value.exit_code == 2


def test_an_import_changes_no_other_sweep(store, lab, table):
    runs = [lab.run(d_model=d_model) for d_model in (8, 16)]
    for run in runs:
        lab.stored(store, run)
    sweep_of(store, runs)
    before, exported = load_points(store, "s"), export(store, "s")
    import_table(store, table, "theirs")
    after = load_points(store, "s")
    assert {name: held.dtype for name, held in after.columns.items()} == {
        name: held.dtype for name, held in before.columns.items()
    }
    pd.testing.assert_frame_equal(export(store, "s"), exported)
    with pytest.raises(UsageError, match="params is not known"):
        load_points(store, "s", by="params")
    context = refresh(store).frame().set_index("run_id")["model.context"]
    assert context.dtype == "Int64"
    assert context[runs[0].run_id] == 32


def test_the_axes_of_an_imported_table_and_columns_that_differ_in_every_row_are_no_settings(store, tmp_path):
    path = tmp_path / "x.csv"
    frame = pd.DataFrame(
        {"N": [10, 20, 20], "D": [5, 5, 5], "loss": [3.0, 2.0, 2.5], "lr": [1, 2, 1], "seed": [0, 0, 1]}
    )
    frame.assign(bits=[1.0, 2.0, 3.0], run_id=["a", "b", "b"], config="x").to_csv(path, index=False)
    import_table(store, path, "theirs")
    rows = load_sweep(store, "theirs").rows
    cells = [{key: row[key] for key in row if key not in ("config", "current", "run_id")} for row in rows]
    assert cells == [{"lr": 1, "train.seed": 0}, {"lr": 2, "train.seed": 0}, {"lr": 1, "train.seed": 1}]
    assert {row["run_id"] for row in rows} == set(refresh(store).frame()["run_id"])
    assert refresh(store).frame()["seconds"].isna().all()


def test_flops_that_nobody_counted_are_not_stored_as_exact(store, table):
    import_table(store, table, "theirs")
    assert refresh(store).frame()["C_exact"].isna().all()
    assert load_points(store, "theirs", flops="exact").C is None
    points = load_points(store, "theirs")
    np.testing.assert_array_equal(points.C, 6 * points.N * points.D)


@pytest.mark.parametrize(
    "other", [{"mapping": {"L": "lr"}}, {"mapping": {"N": "tokens", "D": "params"}}, {"convention": "total"}]
)
def test_an_import_with_another_mapping_or_convention_makes_other_runs(store, table, other):
    import_table(store, table, "theirs")
    first = set(load_sweep(store, "theirs").current)
    import_table(store, table, "theirs", **other)
    again = load_sweep(store, "theirs")
    assert not first & set(again.current)
    assert set(again.earlier) == first
    direct = table_points(table, other.get("mapping"))
    points = load_points(store, "theirs", convention=other.get("convention", "non_embedding"))
    for axis in ("N", "D", "L"):
        assert sorted(getattr(points, axis)) == sorted(getattr(direct, axis))


def test_a_mapping_that_says_what_the_names_say_makes_the_same_runs(store, table):
    import_table(store, table, "theirs")
    first = load_sweep(store, "theirs").current
    import_table(store, table, "theirs", {"N": "params", "D": "tokens", "L": "loss"})
    assert load_sweep(store, "theirs").current == first


def test_an_import_says_where_each_run_is_from(store, table):
    import_table(store, table, "theirs")
    frame = export(store, "theirs")
    assert set(frame["provenance.source"]) == {"runs.csv"}
    assert sorted(frame["provenance.row"]) == [1, 2, 3, 4]
    assert frame["provenance.source_sha256"].str.fullmatch("[0-9a-f]{64}").all()


def test_flops_that_the_source_counted_are_exact_and_used_where_6nd_is_not_possible(store, tmp_path):
    path = tmp_path / "x.csv"
    pd.DataFrame({"flops": [1e9, 2e9], "loss": [3.0, 2.0]}).to_csv(path, index=False)
    import_table(store, path, "theirs")
    points = load_points(store, "theirs")
    assert points.axes() == ("C",)
    assert sorted(points.C) == [1e9, 2e9]
    assert points.flops == "exact"
    assert any("C is as the source counts it" in note for note in points.notes)


def test_a_column_named_like_one_of_the_index_keeps_its_values_apart(store, tmp_path):
    path = tmp_path / "x.csv"
    pd.DataFrame({"N": [10], "D": [5], "loss": [3.0], "state": ["fine"], "device": ["tpu"]}).to_csv(path, index=False)
    import_table(store, path, "theirs")
    row = refresh(store).frame().iloc[0]
    assert (row["state"], row["column.state"], row["column.device"]) == ("done", "fine", "tpu")


def test_a_table_with_a_hostile_sweep_name_is_refused_before_anything_is_written(store, table):
    with pytest.raises(UsageError):
        import_table(store, table, "../theirs")
    assert list(store.runs.iterdir()) == []


def test_a_table_never_takes_the_place_of_a_sweep(store, table, lab):
    run = lab.run()
    lab.stored(store, run)
    save_sweep(store, "theirs", 'name = "theirs"\n[model]\n', [{"run_id": run.run_id, "config": record(run)}])
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="theirs is a sweep of its own here") as caught:
        import_table(store, table, "theirs")
    assert "--name NAME" in str(caught.value)
    assert {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()} == before
    import_table(store, table, "others")
    import_table(store, table, "others", convention="total")
    assert len(load_sweep(store, "others").earlier) == 4


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"N": [1e6, 1e30], "D": [1e9, 1e9]}, "N is 1e\\+30 in row 2"),
        ({"params": [1e6, 1e7], "tokens": [1e9, 1e25]}, "tokens is 1e\\+25 in row 2"),
        ({"N": [1e6, 1e7], "D": [1e9, 1e9], "step": [1, 1e25]}, "step is 1e\\+25 in row 2"),
        ({"N": [1e6, 1e7], "C": [1e9, 1e300]}, "D is 1.6.*e\\+292 in row 2"),
    ],
)
def test_a_count_that_no_run_can_have_is_named_before_any_row_is_written(store, tmp_path, columns, said):
    pd.DataFrame({**columns, "loss": [3.0, 2.5]}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(UsageError, match=said):
        import_table(store, tmp_path / "x.csv", "theirs")
    assert list(store.runs.iterdir()) == []
    assert list(store.sweeps.iterdir()) == []


@pytest.mark.parametrize("gone", ["sweep.toml", "plan.parquet"])
def test_importing_again_mends_an_import_that_is_damaged(store, table, gone):
    import_table(store, table, "theirs")
    before = load_sweep(store, "theirs")
    (store.sweep_folder("theirs") / gone).unlink()
    notes = import_table(store, table, "theirs")
    assert any(f"the plan of sweep theirs is damaged: {gone} is gone; it is written anew" in note for note in notes)
    assert load_sweep(store, "theirs") == before


# --- stores ----------------------------------------------------------------------------------------------------------


def test_a_merged_store_has_the_runs_and_sweeps_of_both(store, other, lab):
    ours, both, theirs = (lab.run(seed=seed) for seed in range(3))
    for run in (ours, both):
        lab.stored(store, run)
    lab.stored(other, both, rows=[row._replace(seconds=row.seconds * 3) for row in lab.rows(both)])
    lab.stored(other, theirs)
    sweep_of(store, [ours, both])
    sweep_of(other, [both, theirs])
    sweep_of(other, [theirs], "only-there")
    merge = import_store(store, other.root)
    assert (merge.copied, merge.known) == ((theirs.run_id,), (both.run_id,))
    assert set(merge.sweeps) == {"s", "only-there"}
    assert merge.further == {"s": 1}
    assert set(refresh(store).frame()["run_id"]) == {run.run_id for run in (ours, both, theirs)}
    assert store.run_file(theirs.run_id).read_bytes() == other.run_file(theirs.run_id).read_bytes()
    assert read_run(store.run_file(both.run_id)).rows() == lab.rows(both)
    assert load_sweep(store, "s").current == (ours.run_id, both.run_id)
    assert load_sweep(store, "s").earlier == (theirs.run_id,)
    assert load_sweep(store, "only-there").current == (theirs.run_id,)
    again = import_store(store, other.root)
    assert (again.copied, again.sweeps, again.further) == ((), (), {})


def test_a_merge_with_other_numbers_copies_nothing_at_all(store, other, lab):
    shared, theirs = lab.run(seed=0), lab.run(seed=1)
    lab.stored(store, shared)
    lab.stored(other, shared, rows=[row._replace(value=row.value + 1e-6) for row in lab.rows(shared)])
    lab.stored(other, theirs)
    with pytest.raises(StoreError, match=shared.run_id):
        import_store(store, other.root)
    assert refresh(store).frame()["run_id"].tolist() == [shared.run_id]


@pytest.mark.parametrize(("ours", "theirs", "result"), [("failed", "done", "done"), ("done", "failed", "done")])
def test_a_finished_run_goes_before_a_failed_one(store, other, lab, ours, theirs, result):
    run = lab.run()
    for where, state in ((store, ours), (other, theirs)):
        lab.stored(where, run, state=State(state), rows=None if state == "done" else [])
    import_store(store, other.root)
    assert refresh(store).frame()["state"].tolist() == [result]


def test_a_damaged_file_of_another_store_is_named_and_left_there(store, other, lab):
    good, bad = lab.run(seed=0), lab.run(seed=1)
    lab.stored(other, good)
    path = lab.stored(other, bad)
    path.write_bytes(path.read_bytes()[:100])
    merge = import_store(store, other.root)
    assert merge.copied == (good.run_id,)
    assert [damaged.path for damaged in merge.damaged] == [path]
    assert path.exists()
    assert not store.run_file(bad.run_id).exists()


def test_a_damaged_file_here_is_replaced_by_the_good_one_there(store, other, lab):
    run = lab.run()
    lab.stored(store, run).write_bytes(b"")
    lab.stored(other, run)
    import_store(store, other.root)
    assert read_run(store.run_file(run.run_id)).rows() == lab.rows(run)


@pytest.mark.parametrize("side", ["there", "here"])
def test_a_damaged_sweep_on_either_side_is_left_out_of_a_merge_and_said(store, other, lab, side):
    run = lab.run()
    lab.stored(other, run)
    for where in (store, other):
        sweep_of(where, [run])
    sweep_of(other, [run], "further")
    (other if side == "there" else store).inside("sweeps", "s", "plan.parquet").write_bytes(b"PAR1")
    merge = import_store(store, other.root)
    assert (merge.copied, merge.sweeps) == ((run.run_id,), ("further",))
    assert [said.partition(":")[0] for said in merge.left] == ["the plan of sweep s is damaged"]


def test_a_run_that_is_being_trained_here_is_left_out_of_a_merge_until_it_is_let_go(store, other, lab):
    held, free = lab.run(seed=0), lab.run(seed=1)
    for run in (held, free):
        lab.stored(other, run)
    folder = live(store, held.run_id)
    claim = folder.claim()
    merge = import_store(store, other.root)
    assert (merge.copied, merge.flying) == ((free.run_id,), (held.run_id,))
    assert not store.run_file(held.run_id).exists()
    assert claim.held()
    folder.save_checkpoint(b"half")
    folder.mark(State.PAUSED, "stopped", 3)
    claim.release()
    merge = import_store(store, other.root)
    assert (merge.copied, merge.flying) == ((held.run_id,), ())
    assert state_of(store, held.run_id).state is State.DONE
    assert not folder.folder.exists()


def test_a_checkpoint_here_is_not_given_for_a_failure_there(store, other, lab):
    run = lab.run()
    lab.stored(other, run, state=State.FAILED, rows=[])
    folder = live(store, run.run_id)
    claim = folder.claim()
    folder.save_checkpoint(b"half")
    folder.mark(State.PAUSED, "stopped", 3)
    claim.release()
    assert import_store(store, other.root).flying == (run.run_id,)
    assert state_of(store, run.run_id).state is State.PAUSED
    assert folder.checkpoint.exists()


def test_a_disk_that_is_full_leaves_a_paused_run_as_it_was(store, other, lab, monkeypatch):
    run = lab.run()
    lab.stored(other, run)
    folder = live(store, run.run_id)
    claim = folder.claim()
    folder.mark(State.PAUSED, "stopped", 3)
    claim.release()

    def full(path, content):
        raise BudgetRefused("no space left")

    monkeypatch.setattr(exchange, "atomic_write", full)
    with pytest.raises(BudgetRefused):
        import_store(store, other.root)
    assert state_of(store, run.run_id) == (State.PAUSED, "stopped", 3)


def test_a_link_in_another_store_is_not_followed(store, other, lab, tmp_path):
    path = lab.stored(other, lab.run())
    shutil.move(path, tmp_path / path.name)
    path.symlink_to(tmp_path / path.name)
    with pytest.raises(StoreError, match="symbolic link out of the store"):
        import_store(store, other.root)
    assert rebuild(store).table.num_rows == 0


def test_a_folder_without_runs_is_no_store(store, tmp_path):
    with pytest.raises(NothingMatched, match="there is no store"):
        import_store(store, tmp_path / "nothing")

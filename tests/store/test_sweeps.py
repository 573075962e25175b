"""A sweep is a list of run ids under a name, and remembers what it asked for before."""

from __future__ import annotations

import os

import pytest

from scalectl.core.errors import NothingMatched, StoreError, UsageError
from scalectl.core.run import record
from scalectl.store import sweeps
from scalectl.store.files import atomic_write
from scalectl.store.layout import open_store
from scalectl.store.sweeps import DamagedSweep, damaged_sweeps, latest_sweep, list_sweeps, load_sweep, save_sweep


def cell(run, **columns):
    return {"run_id": run.run_id, "config": record(run), **columns}


def test_a_sweep_reads_back_with_its_cells_in_the_order_of_the_plan(store, lab):
    runs = [lab.run(d_model=d_model) for d_model in (64, 8, 16)]
    rows = [cell(run, d_model=run.model.options.d_model, rule="a" if i else None) for i, run in enumerate(runs)]
    save_sweep(store, "widths", 'name = "widths"\n', rows)
    sweep = load_sweep(store, "widths")
    assert (sweep.name, sweep.toml) == ("widths", 'name = "widths"\n')
    assert sweep.current == tuple(run.run_id for run in runs)
    assert sweep.earlier == ()
    assert [row["d_model"] for row in sweep.rows] == [64, 8, 16]
    assert [row.get("rule") for row in sweep.rows] == [None, "a", "a"]
    import json

    assert json.loads(sweep.rows[0]["config"])["model"]["options"]["d_model"] == 64


def test_runs_that_the_sweep_no_longer_asks_for_are_kept_as_earlier(store, lab):
    a, b, c = (lab.run(seed=seed) for seed in range(3))
    save_sweep(store, "s", "1", [cell(a), cell(b)])
    save_sweep(store, "s", "2", [cell(b), cell(c)])
    sweep = load_sweep(store, "s")
    assert (sweep.toml, sweep.current, sweep.earlier) == ("2", (b.run_id, c.run_id), (a.run_id,))
    save_sweep(store, "s", "3", [cell(a)])
    assert load_sweep(store, "s").current == (a.run_id,)
    assert set(load_sweep(store, "s").earlier) == {b.run_id, c.run_id}


def test_the_same_run_twice_in_a_sweep_is_listed_once(store, lab):
    save_sweep(store, "s", "", [cell(lab.run()), cell(lab.run())])
    assert len(load_sweep(store, "s").rows) == 1


def test_cells_of_different_types_are_kept_as_text(store, lab):
    save_sweep(store, "s", "", [cell(lab.run(seed=0), width=8), cell(lab.run(seed=1), width="wide")])
    assert [row["width"] for row in load_sweep(store, "s").rows] == ["8", "wide"]


def test_an_empty_plan_is_a_sweep(store):
    save_sweep(store, "s", "", [])
    assert load_sweep(store, "s").rows == ()
    assert list_sweeps(store) == ["s"]


def test_the_latest_sweep_is_the_one_run_last(store, lab):
    for name in ("b", "a", "c"):
        save_sweep(store, name, "", [cell(lab.run())])
    for age, name in enumerate(("a", "c", "b")):
        os.utime(store.sweep_folder(name) / "plan.parquet", ns=(0, 10**18 - age))
    assert list_sweeps(store) == ["a", "c", "b"]
    assert latest_sweep(store) == "a"
    save_sweep(store, "b", "", [])
    assert latest_sweep(store) == "b"


def test_an_unknown_sweep_is_answered_with_the_one_that_was_meant(store, lab):
    save_sweep(store, "stdlib-ladder", "", [cell(lab.run())])
    with pytest.raises(NothingMatched) as caught:
        load_sweep(store, "stdlib-lader")
    assert "did you mean stdlib-ladder?" in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_store_without_sweeps_says_what_to_run(tmp_path):
    store = open_store(tmp_path / "nothing")
    assert list_sweeps(store) == []
    with pytest.raises(NothingMatched, match="no sweep"):
        latest_sweep(store)


def test_a_damaged_plan_is_an_error_that_names_it(store, lab):
    save_sweep(store, "s", "", [cell(lab.run())])
    (store.sweep_folder("s") / "plan.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="plan of sweep s is damaged"):
        load_sweep(store, "s")


@pytest.mark.parametrize("broken", ["plan.parquet cut", "plan.parquet gone", "sweep.toml gone", "sweep.toml cut"])
def test_saving_a_damaged_sweep_again_mends_it(store, lab, broken):
    a, b = (lab.run(seed=seed) for seed in range(2))
    save_sweep(store, "s", "1", [cell(a), cell(b)])
    file, what = broken.split()
    path = store.sweep_folder("s") / file
    content = path.read_bytes()
    path.unlink() if what == "gone" else path.write_bytes(b"\xff" + content[:300])
    assert list_sweeps(store) == ["s"]
    with pytest.raises(DamagedSweep, match="scalectl sweep FILE") as caught:
        load_sweep(store, "s")
    assert damaged_sweeps(store, ["s", "no-such-one"]).keys() == {"s"}
    save_sweep(store, "s", "2", [cell(a)])
    assert load_sweep(store, "s").current == (a.run_id,)
    plan = file == "plan.parquet"
    assert load_sweep(store, "s").earlier == (() if plan else (b.run_id,))
    assert ("runs of earlier versions" in caught.value.mended) is plan
    aside = [store.quarantine / "s.plan"] if plan and what == "cut" else []
    assert list(store.root.glob("quarantine/*")) == aside
    assert damaged_sweeps(store, ["s"]) == {}


def test_a_new_sweep_appears_with_both_its_files(store, lab, monkeypatch):
    seen = []
    monkeypatch.setattr(sweeps, "atomic_write", lambda *args: seen.append(list_sweeps(store)) or atomic_write(*args))
    save_sweep(store, "s", "1", [cell(lab.run())])
    assert seen == [[], []]
    assert [path.name for path in store.sweeps.iterdir()] == ["s"]


@pytest.mark.parametrize("name", ["../x", "a/b", "[red]", ""])
def test_a_sweep_with_a_hostile_name_is_refused(store, name):
    with pytest.raises(UsageError):
        save_sweep(store, name, "", [])


def test_hidden_and_foreign_entries_among_the_sweeps_are_passed_over(store, lab):
    save_sweep(store, "s", "", [cell(lab.run())])
    (store.sweeps / ".git").mkdir()
    (store.sweeps / "empty").mkdir()
    (store.sweeps / "README.md").write_text("")
    assert list_sweeps(store) == ["s"]

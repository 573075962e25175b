"""The compacted rows of a sweep are derived: the same as the run files say, whatever happened to either."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from scalectl.core.job import State
from scalectl.store import compact
from scalectl.store.compact import LEAST, forget, load_rows
from scalectl.store.layout import open_store
from scalectl.store.points import load_points
from scalectl.store.sweeps import save_sweep

SWEEP = "ladder"


@pytest.fixture
def runs(store, lab):
    """A sweep of runs, hardly more than are compacted, of which the last has no rows."""
    held = [lab.run(seed=seed, steps=60 + seed) for seed in range(LEAST + 1)]
    for run in held[:-1]:
        lab.stored(store, run)
    lab.stored(store, held[-1], state=State.DIVERGED, message="at step 1", rows=[])
    save_sweep(store, SWEEP, 'name = "ladder"\n', [{"run_id": run.run_id, "config": {}} for run in held])
    return held


def ids(runs):
    return [run.run_id for run in runs]


def plain(store, runs, **which):
    """What the run files say, one by one."""
    return load_rows(store, ids(runs), **which)[0]


def written(store):
    return store.sweep_folder(SWEEP) / "rows.parquet", store.sweep_folder(SWEEP) / "rows.json"


def opened(monkeypatch):
    """The run files that are opened from now on."""
    names = []

    def read_run(path):
        names.append(path.stem)
        return real(path)

    real = compact.read_run
    monkeypatch.setattr(compact, "read_run", read_run)
    return names


def test_a_sweep_that_was_read_once_is_read_without_opening_its_run_files(store, runs, monkeypatch):
    first, _ = load_rows(store, ids(runs), sweep=SWEEP)
    names = opened(monkeypatch)
    again, damaged = load_rows(store, ids(runs), sweep=SWEEP)
    assert names == []
    assert damaged == ()
    pd.testing.assert_frame_equal(again, first)
    monkeypatch.undo()
    pd.testing.assert_frame_equal(again, plain(store, runs))


@pytest.mark.parametrize(
    "which", [{"metric": "loss"}, {"split": "held-out"}, {"metric": "loss_se", "split": "held-out"}]
)
def test_a_part_of_it_is_what_the_run_files_say_in_the_order_that_was_asked_for(store, runs, which):
    load_rows(store, ids(runs), sweep=SWEEP)
    some = [*runs[20:30], *runs[5:9], runs[-1], runs[0]][::-1]
    frame, _ = load_rows(store, ids(some), sweep=SWEEP, **which)
    pd.testing.assert_frame_equal(frame, plain(store, some, **which))


def test_few_runs_are_not_worth_a_file(store, runs):
    load_rows(store, ids(runs[: LEAST - 1]), sweep=SWEEP)
    assert not any(path.exists() for path in written(store))


def test_runs_that_came_later_are_read_from_their_files_and_added_once_they_are_many(store, lab, runs, monkeypatch):
    load_rows(store, ids(runs), sweep=SWEEP)
    later = [lab.run(seed=1000 + seed) for seed in range(LEAST)]
    for run in later:
        lab.stored(store, run)
    names = opened(monkeypatch)
    load_rows(store, ids([*runs, later[0]]), sweep=SWEEP)
    assert names == ids(later[:1])
    load_rows(store, ids([*later, *runs]), sweep=SWEEP)
    del names[:]
    frame, _ = load_rows(store, ids([*later, *runs]), sweep=SWEEP)
    assert names == []
    pd.testing.assert_frame_equal(frame, plain(store, [*later, *runs]))


def test_a_run_file_that_was_replaced_counts_and_not_what_was_copied_from_it(store, lab, runs):
    failed = lab.run(seed=5000)
    lab.stored(store, failed, state=State.FAILED, message="no", rows=lab.rows(failed)[:4])
    load_rows(store, ids([*runs, failed]), sweep=SWEEP)
    lab.stored(store, failed)
    frame, _ = load_rows(store, ids([*runs, failed]), sweep=SWEEP)
    assert len(frame[frame["run_id"] == failed.run_id]) == len(lab.rows(failed))


def test_a_run_whose_file_is_gone_is_gone(store, runs):
    load_rows(store, ids(runs), sweep=SWEEP)
    store.run_file(runs[3].run_id).unlink()
    frame, _ = load_rows(store, ids(runs), sweep=SWEEP)
    assert runs[3].run_id not in set(frame["run_id"])


def test_a_damaged_run_file_is_named_although_its_rows_were_copied_before(store, runs):
    load_rows(store, ids(runs), sweep=SWEEP)
    path = store.run_file(runs[3].run_id)
    path.write_bytes(path.read_bytes()[:-1])
    frame, damaged = load_rows(store, ids(runs), sweep=SWEEP)
    assert [held.path.stem for held in damaged] == [runs[3].run_id]
    assert runs[3].run_id not in set(frame["run_id"])


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(bytes(content))


def renumber(about):
    held = json.loads(about.read_text()) | {"version": 99}
    held["digest"] = compact._digest({key: value for key, value in held.items() if key != "digest"})
    about.write_text(json.dumps(held))


SPOILED = {
    "no rows": lambda rows, about: rows.unlink(),
    "no spans": lambda rows, about: about.unlink(),
    "empty rows": lambda rows, about: rows.write_bytes(b""),
    "empty spans": lambda rows, about: about.write_bytes(b""),
    "rows cut": lambda rows, about: cut(rows),
    "spans cut": lambda rows, about: cut(about),
    "spans of something else": lambda rows, about: about.write_text("[1]"),
    "a newer version": lambda rows, about: about.write_text(
        json.dumps(json.loads(about.read_text()) | {"version": 99})
    ),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_spoiled_file_is_as_good_as_none_and_made_again(store, runs, spoil, monkeypatch):
    truth, _ = load_rows(store, ids(runs), sweep=SWEEP)
    spoil(*written(store))
    pd.testing.assert_frame_equal(load_rows(store, ids(runs), sweep=SWEEP)[0], truth)
    names = opened(monkeypatch)
    pd.testing.assert_frame_equal(load_rows(store, ids(runs), sweep=SWEEP)[0], truth)
    assert names == []


def test_no_flipped_bit_of_it_changes_a_number(store, runs):
    truth, _ = load_rows(store, ids(runs), sweep=SWEEP)
    for path in written(store):
        content = path.read_bytes()
        for place in range(200):
            flip(path, place / 199)
            held = compact._read(store, SWEEP)  # what the run files would say anyway is not read 400 times
            if held.spans:
                assert len(held.spans) == len(runs)
                pd.testing.assert_frame_equal(held.table.to_pandas(), truth)
            path.write_bytes(content)


def test_a_store_that_cannot_be_written_is_read_as_well(store, runs):
    read_only = open_store(store.root, writable=False)
    pd.testing.assert_frame_equal(load_rows(read_only, ids(runs), sweep=SWEEP)[0], plain(store, runs))
    assert not any(path.exists() for path in written(store))


def test_what_is_forgotten_is_made_again(store, runs):
    load_rows(store, ids(runs), sweep=SWEEP)
    forget(store, SWEEP)
    assert not any(path.exists() for path in written(store))
    load_rows(store, ids(runs), sweep=SWEEP)
    assert all(path.exists() for path in written(store))


@pytest.mark.parametrize("at", ["min", "mean:2"])
def test_points_over_several_evaluations_are_the_same_from_it(store, runs, at):
    for _ in range(2):
        points = load_points(store, SWEEP, at=at)
        each = plain(store, runs[:-1], metric="loss", split="held-out").groupby("run_id")["value"]
        truth = each.min() if at == "min" else each.apply(lambda held: held.iloc[-2:].mean())
        assert points.L.tolist() == truth.loc[list(points.ids)].tolist()
    assert all(path.exists() for path in written(store))

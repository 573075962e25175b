"""What was set aside is named by every later reader, until its run has a good file again."""

from __future__ import annotations

import pytest

from scalectl.core.errors import NothingMatched
from scalectl.store.compact import load_rows
from scalectl.store.index import damaged_runs, rebuild, refresh
from scalectl.store.layout import open_store
from scalectl.store.points import load_points
from scalectl.store.reader import quarantined
from scalectl.store.sweeps import save_sweep

DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "bit-flipped": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_later_readers_name_a_quarantined_file_with_the_reason_that_the_first_gave(store, lab, kind):
    path, other = (lab.stored(store, lab.run(seed=seed)) for seed in range(2))
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    (first,) = rebuild(store).damaged
    assert quarantined(store) == (first,)
    assert refresh(store).damaged == ()
    assert damaged_runs(store, refresh(store)) == (first,)
    assert quarantined(store, [path.stem]) == (first,)
    assert quarantined(store, [other.stem]) == ()


def test_a_run_that_was_done_again_is_named_no_more(store, lab):
    run = lab.run()
    lab.stored(store, run).write_bytes(b"")
    rebuild(store)
    assert len(quarantined(store)) == 1
    lab.stored(store, run)
    assert quarantined(store) == ()


def test_of_several_damaged_files_of_a_run_the_latest_is_named(store, lab):
    for content in (b"", b"x" * 100, b""):
        path = lab.stored(store, lab.run())
        path.write_bytes(content)
        rebuild(store)
    (held,) = quarantined(store)
    assert (held.path, held.moved_to, held.reason) == (
        path,
        store.quarantine / f"{path.stem}.2.parquet",
        "it is empty",
    )


def test_damage_that_cannot_be_moved_is_named_by_every_reader_too(store, lab):
    lab.stored(store, lab.run()).write_bytes(b"")
    reading = open_store(store.root, writable=False)
    for _ in range(2):
        (held,) = damaged_runs(reading, refresh(reading))
        assert held.moved_to is None


def test_other_things_in_the_quarantine_are_passed_over(store):
    assert quarantined(store) == ()
    store.quarantine.mkdir()
    for name in (".hidden.parquet", "notes.txt", ".parquet"):
        (store.quarantine / name).write_text("")
    assert quarantined(store) == ()


def test_points_name_the_damaged_runs_of_their_sweep_however_long_ago_they_were_set_aside(store, lab):
    good, bad, pending, foreign = (lab.run(seed=seed) for seed in range(4))
    for run in (good, bad, foreign):
        lab.stored(store, run)
    for run in (bad, foreign):
        store.run_file(run.run_id).write_bytes(b"")
    save_sweep(store, "s", "", [{"run_id": run.run_id, "config": {}} for run in (good, bad, pending)])
    load_rows(store, [bad.run_id])
    for _ in range(2):
        assert load_points(store, "s").notes == (
            f"{bad.run_id}.parquet is damaged (it is empty); moved to quarantine/",
            "1 run left out: not ended yet",
        )
    save_sweep(store, "t", "", [{"run_id": bad.run_id, "config": {}}])
    with pytest.raises(NothingMatched) as caught:
        load_points(store, "t")
    assert f"{bad.run_id}.parquet is damaged" in str(caught.value)

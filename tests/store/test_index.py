"""The index is derived: right when it is stale, damaged, missing or cannot be written."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalectl.core.errors import NothingMatched, UsageError
from scalectl.core.job import State
from scalectl.core.rows import INDEX_COLUMNS
from scalectl.store import schema
from scalectl.store.index import find_run, rebuild, refresh
from scalectl.store.layout import open_store


def test_the_index_has_one_row_per_run_with_config_sizes_and_final_metrics(store, lab):
    run, other = lab.run(d_model=8), lab.run(d_model=16)
    lab.stored(store, run)
    lab.stored(store, other, state=State.DIVERGED, message="at step 40", rows=lab.rows(other)[:4])
    frame = refresh(store).frame().set_index("run_id")
    assert set(frame.index) == {run.run_id, other.run_id}
    row = frame.loc[run.run_id]
    assert row["N_non_embedding"] == lab.N(run)
    assert (row["D"], row["steps"], row["pack"]) == (run.tokens, 60, 1)
    assert row["train.lr"] == 0.01
    assert row["held-out/loss"] == lab.loss(run)
    assert row["held-out/loss_se"] == 0.004
    assert row["train/loss"] == pytest.approx(lab.loss(run) + 0.01)
    assert row["held-out/bits_per_byte"] == pytest.approx(lab.loss(run) / 0.6931471805599453)
    assert frame.loc[other.run_id, ["state", "message", "steps"]].tolist() == ["diverged", "at step 40", 20]


def test_the_index_file_has_the_declared_columns_with_their_units(store, lab):
    lab.stored(store, lab.run())
    rebuild(store)
    fields = pq.read_schema(store.index)
    for column in INDEX_COLUMNS:
        assert fields.field(column.name).metadata[b"unit"] == column.unit.encode()
        assert fields.field(column.name).metadata[b"description"] == column.sentence.encode()
    pd.testing.assert_frame_equal(pd.read_parquet(store.index), refresh(store).frame())


def spoil_nothing(store):
    pass


SPOILED = {
    "current": spoil_nothing,
    "missing": lambda store: store.index.unlink(),
    "empty": lambda store: store.index.write_bytes(b""),
    "truncated": lambda store: store.index.write_bytes(store.index.read_bytes()[:-100]),
    "bit-flipped": lambda store: store.index.write_bytes(flipped(store.index.read_bytes(), 60)),
    "of another layout": lambda store: pq.write_table(pa.table({"run_id": ["a"]}), store.index),
}


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("kind", SPOILED)
def test_the_index_is_right_whatever_became_of_its_file(store, lab, kind):
    for seed in range(3):
        lab.stored(store, lab.run(seed=seed))
    truth = refresh(store).frame()
    SPOILED[kind](store)
    pd.testing.assert_frame_equal(refresh(store).frame(), truth)


def test_no_bit_flip_in_the_index_changes_what_is_read(store, lab):
    import random

    for seed in range(3):
        lab.stored(store, lab.run(seed=seed))
    truth = refresh(store).frame()
    content = store.index.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(content)), 60):
        store.index.write_bytes(flipped(content, bit // 8))
        pd.testing.assert_frame_equal(refresh(store).frame(), truth)


def test_new_changed_and_removed_runs_show_at_once(store, lab):
    first, second = lab.run(seed=1), lab.run(seed=2)
    lab.stored(store, first)
    lab.stored(store, second, state=State.FAILED, rows=[])
    assert refresh(store).frame()["state"].value_counts().to_dict() == {"done": 1, "failed": 1}
    lab.stored(store, second)
    assert refresh(store).frame()["state"].tolist() == ["done", "done"]
    store.run_file(first.run_id).unlink()
    assert refresh(store).frame()["run_id"].tolist() == [second.run_id]
    assert refresh(store).states() == {second.run_id: ("done", "", 60)}


def test_only_new_files_are_read_again(store, lab):
    """A known file whose content changes behind its time and size is not opened: its row comes from the index."""
    path = lab.stored(store, lab.run(seed=0))
    refresh(store).frame()
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    lab.stored(store, lab.run(seed=1))
    assert len(refresh(store).frame()) == 2
    assert len(rebuild(store).damaged) == 1


def test_the_rows_of_the_index_do_not_depend_on_what_was_known_before(store, lab):
    for seed in (3, 1):
        lab.stored(store, lab.run(seed=seed, lr=1 if seed == 1 else 0.003))
        refresh(store).frame()
    for state, d_model in ((State.DIVERGED, 8), (State.FAILED, 24)):
        lab.stored(store, lab.run(d_model=d_model), state=state, rows=[])
        grown = refresh(store).frame()
    pd.testing.assert_frame_equal(grown, rebuild(store).frame())


def test_columns_of_different_types_stay_apart_after_an_update(store):
    from scalectl.core.rows import Row
    from scalectl.store.writer import write_file

    def add(run_id, value):
        rows = [Row(run_id, 0, 1, 1.0, "held-out", "loss", 2.0, 0.0)]
        write_file(store, run_id, rows, State.DONE, {}, {"model.width": value}, {})

    add("a", 5)
    add("b", "five")
    assert refresh(store).frame()["model.width"].tolist() == ["5", "five"]
    store.run_file("b").unlink()
    add("c", 6)
    assert refresh(store).frame()["model.width"].tolist() == [5, 6]


def test_an_empty_store_has_an_empty_index(tmp_path):
    store = open_store(tmp_path / "nothing")
    assert refresh(store).frame().empty
    assert not store.root.exists()


@contextlib.contextmanager
def nobody():
    """Gives up the rights of root for a while: root may write into read-only folders."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_store_is_read_in_memory_and_its_damaged_file_is_left(lab):
    folder = Path(tempfile.mkdtemp())
    try:
        store = open_store(folder)
        for seed in range(2):
            path = lab.stored(store, lab.run(seed=seed))
        path.write_bytes(b"")
        folder.chmod(0o755)
        for entry in (folder, store.runs):
            entry.chmod(0o555)
        with nobody():
            index = refresh(store)
            with pytest.raises(Exception, match="read-only") as caught:
                store.prepare()
        assert len(index.table) == 1
        assert [damaged.moved_to for damaged in index.damaged] == [None]
        assert "left where it is" in str(index.damaged[0])
        assert path.exists()
        assert not store.index.exists()
        assert caught.value.exit_code == 5
    finally:
        for entry in (folder, folder / "runs"):
            entry.chmod(0o755)
        shutil.rmtree(folder)


def test_a_run_is_found_by_a_unique_prefix(store, lab):
    runs = sorted(lab.stored(store, lab.run(seed=seed)).stem for seed in range(20))
    assert find_run(store, runs[0]) == runs[0]
    unique = next(run[:k] for run in runs for k in range(1, 17) if sum(r.startswith(run[:k]) for r in runs) == 1)
    assert find_run(store, unique).startswith(unique)
    shared = next(run[0] for run, after in itertools.pairwise(runs) if run[0] == after[0])
    with pytest.raises(UsageError, match="runs begin with"):
        find_run(store, shared)
    with pytest.raises(NothingMatched):
        find_run(store, "zz")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2], pa.int64()),
        ([1, 0.5], pa.float64()),
        ([True, None], pa.bool_()),
        ([True, 1], pa.string()),
        (["a", 1], pa.string()),
        ([None, None], pa.string()),
        ([[1, 2], None], pa.string()),
        ([2**70, 1], pa.string()),
    ],
)
def test_a_column_of_mixed_cells_has_one_type(values, expected):
    array = schema.column_array(values)
    assert array.type == expected
    assert array.null_count == values.count(None)


def test_a_store_opened_for_reading_alone_gets_no_index_and_keeps_its_damage(store, lab):
    good, bad = lab.run(seed=0), lab.run(seed=1)
    lab.stored(store, good)
    lab.stored(store, bad)
    store.run_file(bad.run_id).write_bytes(b"PAR1")
    store.index.unlink(missing_ok=True)
    found = refresh(open_store(store.root, writable=False))
    assert found.table["run_id"].to_pylist() == [good.run_id]
    assert [damaged.path.stem for damaged in found.damaged] == [bad.run_id]
    assert not store.index.exists()
    assert store.run_file(bad.run_id).exists()

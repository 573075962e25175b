"""One immutable file per ended run: what it holds, who can read it, and what happens to it when the disk lies."""

from __future__ import annotations

import math
import os
import random
import resource
import shutil

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalectl.core.errors import BudgetRefused, StoreError, UsageError
from scalectl.core.job import State
from scalectl.core.rows import RUN_COLUMNS, STORE_VERSION, Row
from scalectl.core.run import record
from scalectl.store import schema
from scalectl.store.compact import load_rows
from scalectl.store.files import atomic_write
from scalectl.store.index import rebuild
from scalectl.store.layout import checked_name, open_store
from scalectl.store.reader import DamagedRun, read_meta, read_run
from scalectl.store.writer import write_file, write_run


def test_a_run_reads_back_as_it_was_written(store, lab):
    run = lab.run()
    file = read_run(lab.stored(store, run, message="fine"))
    assert file.rows() == lab.rows(run)
    meta = file.meta
    assert (meta.run_id, meta.state, meta.message, meta.version) == (run.run_id, State.DONE, "fine", STORE_VERSION)
    assert meta.config == pq_json(record(run))
    assert meta.provenance == lab.provenance
    assert meta.columns["model.d_model"] == 16
    assert meta.columns["D"] == run.tokens
    assert meta.columns["steps"] == run.steps
    assert meta.final["held-out/loss"] == lab.loss(run)
    assert read_meta(store.run_file(run.run_id)) == meta


def pq_json(value):
    import json

    return json.loads(json.dumps(value))


def test_every_column_of_the_file_has_its_unit_and_sentence(store, lab):
    fields = pq.read_schema(lab.stored(store, lab.run()))
    for column in RUN_COLUMNS:
        held = fields.field(column.name)
        assert held.metadata == {b"unit": column.unit.encode(), b"description": column.sentence.encode()}
        assert not held.nullable


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda runs: pd.read_parquet(runs), id="pandas"),
        pytest.param(lambda runs: duckdb.sql(f"select * from '{runs}/*.parquet'").df(), id="duckdb"),
        pytest.param(
            lambda runs: pd.DataFrame(pl.read_parquet(f"{runs}/*.parquet").to_dict(as_series=False)), id="polars"
        ),
    ],
)
def test_other_tools_read_all_runs_at_once_while_a_file_is_being_written(store, lab, read):
    runs = [lab.run(seed=seed, d_model=d_model) for seed in (0, 1) for d_model in (8, 16)]
    for run in runs:
        lab.stored(store, run)
    (store.runs / ".half.parquet.1-2.tmp").write_bytes(b"PAR1 half a file")
    frame = read(store.runs)
    expected = [row for run in runs for row in lab.rows(run)]
    assert list(frame.columns) == [column.name for column in RUN_COLUMNS]
    assert not frame.isna().any().any()
    assert sorted(frame.itertuples(index=False, name=None)) == sorted(tuple(row) for row in expected)


rows_strategy = st.lists(
    st.tuples(
        st.integers(0, 2**62),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["train", "held-out", "günther", ""]),
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.floats(allow_nan=False, allow_infinity=False),
    ),
    max_size=20,
    unique_by=lambda cells: (cells[0], cells[2], cells[3]),
)


@given(rows_strategy)
@settings(max_examples=60, deadline=None)
def test_any_finite_rows_round_trip(tmp_path_factory, cells):
    store = open_store(tmp_path_factory.mktemp("store"))
    rows = [Row("ab", step, step, flops, split, metric, value, 0.5) for step, flops, split, metric, value in cells]
    assert read_run(write_file(store, "ab", rows, State.FAILED, {}, {}, {})).rows() == rows


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_never_stored(store, lab, number):
    run = lab.run()
    rows = [*lab.rows(run), Row(run.run_id, 61, 1, 1.0, "train", "loss", number, 1.0)]
    with pytest.raises(ValueError, match="train/loss at step 61 is not finite"):
        lab.stored(store, run, rows=rows)
    assert list(store.runs.iterdir()) == []


def test_no_step_is_stored_twice(store, lab):
    run = lab.run()
    with pytest.raises(ValueError, match="step 20 appears twice"):
        lab.stored(store, run, rows=[*lab.rows(run), lab.rows(run)[0]])


def test_rows_of_another_run_are_refused(store, lab):
    with pytest.raises(ValueError, match="a row of run"):
        lab.stored(store, lab.run(seed=0), rows=lab.rows(lab.run(seed=1)))


@pytest.mark.parametrize("state", [State.PENDING, State.RUNNING, State.PAUSED])
def test_a_run_that_has_not_ended_gets_no_file(store, lab, state):
    with pytest.raises(ValueError, match="has not ended"):
        lab.stored(store, lab.run(), state=state)


@pytest.mark.parametrize("state", [State.DONE, State.DIVERGED])
def test_a_settled_run_is_never_replaced_by_other_numbers(store, lab, state):
    run = lab.run()
    path = lab.stored(store, run, state=state)
    before = path.read_bytes()
    slower = [row._replace(seconds=row.seconds * 2) for row in lab.rows(run)]
    assert lab.stored(store, run, state=state, rows=slower) == path
    other = [row._replace(value=row.value + 1e-9) for row in lab.rows(run)]
    with pytest.raises(StoreError, match=f"already {state}"):
        lab.stored(store, run, state=state, rows=other)
    with pytest.raises(StoreError, match=f"already {state}"):
        lab.stored(store, run, state=State.FAILED)
    assert path.read_bytes() == before


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.OOM])
def test_a_retry_replaces_the_file_of_a_run_that_did_not_finish(store, lab, state):
    run = lab.run()
    lab.stored(store, run, state=state, rows=[], message="out of luck")
    assert read_meta(store.run_file(run.run_id)).columns["steps"] == 0
    lab.stored(store, run)
    assert read_meta(store.run_file(run.run_id)).state is State.DONE


def test_no_bit_flip_gives_other_numbers_or_other_metadata(store, lab):
    path = lab.stored(store, lab.run())
    content, truth = path.read_bytes(), read_run(path)
    pick = random.Random(0)
    found = 0
    for bit in pick.sample(range(8 * len(content)), 400):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read = read_run(path)
        except DamagedRun:
            found += 1
        else:
            # A flip in a statistic or a name of the writer changes nothing that a reader gets.
            assert read.meta == truth.meta
            assert read.table.equals(truth.table)
    assert found > 200


def test_no_bit_flip_in_the_footer_gives_another_config(store, lab):
    path = lab.stored(store, lab.run())
    content, truth = path.read_bytes(), read_meta(path)
    footer = int.from_bytes(content[-8:-4], "little") + 8
    for bit in random.Random(1).sample(range(8 * (len(content) - footer), 8 * len(content)), 300):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert read_meta(path) == truth
        except DamagedRun:
            continue


DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "not Parquet": lambda content: b"hello" * 100,
    "bit-flipped": lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_quarantined_and_named_and_the_others_stay_readable(store, lab, kind):
    paths = [lab.stored(store, lab.run(seed=seed)) for seed in range(3)]
    content = DAMAGE[kind](paths[1].read_bytes())
    paths[1].write_bytes(content)
    index = rebuild(store)
    assert index.table["run_id"].to_pylist() == sorted(path.stem for path in (paths[0], paths[2]))
    (damaged,) = index.damaged
    assert damaged.path == paths[1]
    assert paths[1].name in str(damaged)
    assert damaged.moved_to == store.quarantine / paths[1].name
    assert damaged.moved_to.read_bytes() == content
    assert not paths[1].exists()
    assert set(pd.read_parquet(store.runs)["run_id"]) == {paths[0].stem, paths[2].stem}


def test_a_second_damaged_file_of_a_run_does_not_push_out_the_first(store, lab):
    for number in range(3):
        path = lab.stored(store, lab.run())
        path.write_bytes(b"%d" % number)
        rebuild(store)
    assert sorted(path.read_bytes() for path in store.quarantine.iterdir()) == [b"0", b"1", b"2"]


def test_a_damaged_file_gives_way_to_the_run_done_again(store, lab):
    run = lab.run()
    path = lab.stored(store, run)
    path.write_bytes(b"")
    lab.stored(store, run)
    assert read_run(path).rows() == lab.rows(run)
    assert [moved.name for moved in store.quarantine.iterdir()] == [path.name]


def test_a_file_under_the_name_of_another_run_is_damaged(store, lab):
    path = lab.stored(store, lab.run())
    shutil.copy(path, store.run_file("feedbeef"))
    with pytest.raises(DamagedRun, match=f"it holds run {path.stem}"):
        read_run(store.run_file("feedbeef"))


def test_a_file_whose_numbers_were_edited_by_another_tool_is_damaged(store, lab):
    path = lab.stored(store, lab.run())
    table = pq.read_table(path)
    better = pa.array([value - 0.1 for value in table["value"].to_pylist()])
    pq.write_table(table.set_column(6, schema.RUN_SCHEMA.field("value"), better), path)
    with pytest.raises(DamagedRun, match="rows do not match their digest"):
        read_run(path)


def test_a_foreign_parquet_file_is_no_run(store):
    pq.write_table(pa.table({"a": [1]}), store.run_file("a"))
    with pytest.raises(DamagedRun, match="not a run file"):
        read_run(store.run_file("a"))


def test_a_file_of_a_newer_scalectl_says_upgrade_and_is_left_alone(store, lab):
    path = lab.stored(store, lab.run())
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata) | {schema.VERSION: b"%d" % (STORE_VERSION + 1)}
    metadata[schema.DIGEST] = schema.metadata_digest(metadata)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    for read in (read_run, read_meta, lambda _: rebuild(store)):
        with pytest.raises(StoreError, match="newer scalectl") as caught:
            read(path)
        assert caught.value.exit_code == 5
        assert "upgrade" in str(caught.value)
    assert path.exists()


def test_rows_of_several_runs_load_as_one_frame_and_damage_is_named(store, lab):
    runs = [lab.run(seed=seed) for seed in range(3)]
    for run in runs:
        lab.stored(store, run)
    store.run_file(runs[2].run_id).write_bytes(b"x")
    frame, damaged = load_rows(store, [run.run_id for run in runs] + ["absent"], metric="loss", split="held-out")
    assert [name.path.stem for name in damaged] == [runs[2].run_id]
    assert set(frame["run_id"]) == {runs[0].run_id, runs[1].run_id}
    assert set(frame["metric"]) == {"loss"}
    assert len(frame) == 6


def test_a_full_disk_leaves_no_partial_file_and_keeps_the_old_one(tmp_path):
    path = tmp_path / "checkpoint"
    atomic_write(path, b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(BudgetRefused, match="no space left to write checkpoint") as caught:
            atomic_write(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.exit_code == 4
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_a_writer_that_fails_half_way_leaves_the_old_content(tmp_path):
    path = tmp_path / "checkpoint"
    atomic_write(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, fail)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_a_link_in_place_of_a_file_is_replaced_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (tmp_path / "index").symlink_to(tmp_path / "elsewhere")
    atomic_write(tmp_path / "index", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert not (tmp_path / "index").is_symlink()


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "a\0b", "x" * 300, "a\nb", "\x1b[31mred", "[red]", "", ".hidden", "a/b", "x\n"]
)
def test_a_hostile_name_is_refused_and_escaped(store, name):
    for use in (checked_name, store.run_file, store.live_folder, store.sweep_folder):
        with pytest.raises(UsageError) as caught:
            use(name)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("part", ["runs", "live", "sweeps", "quarantine", "index.parquet"])
def test_a_link_out_of_the_store_is_refused(tmp_path, part):
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "results"
    root.mkdir()
    (root / part).symlink_to(outside)
    store = open_store(root)
    with pytest.raises(StoreError, match="symbolic link out of the store"):
        store.inside(*part.split("/"))


def test_a_run_file_that_links_out_of_the_store_is_refused(store, lab, tmp_path):
    path = lab.stored(store, lab.run())
    shutil.move(path, tmp_path / path.name)
    path.symlink_to(tmp_path / path.name)
    with pytest.raises(StoreError, match="symbolic link out of the store"):
        rebuild(store)


def test_the_store_itself_may_be_a_link(tmp_path, lab):
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    store = open_store(tmp_path / "results")
    lab.stored(store, lab.run())
    assert len(list((tmp_path / "disk" / "runs").iterdir())) == 1


def test_a_file_in_place_of_the_store_is_an_error(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(StoreError, match="not a folder"):
        open_store(tmp_path / "results")


def test_a_run_without_a_config_type_can_be_stored(store):
    rows = [Row("abc", 0, 10, 1.0, "held-out", "loss", 2.0, 0.0)]
    path = write_file(store, "abc", rows, State.DONE, {"imported": {}}, {"N_total": 5}, {})
    assert read_meta(path).final == {"held-out/loss": 2.0}
    assert os.stat(path).st_mode & 0o444


def test_writing_into_a_store_that_does_not_exist_yet_makes_it(tmp_path, lab):
    run = lab.run()
    store = open_store(tmp_path / "a" / "b")
    assert write_run(store, run, lab.rows(run), State.DONE, {}, {}).is_file()


def test_numbers_of_numpy_and_large_integers_are_stored_in_the_type_of_their_column(store):
    row = Row("ab", np.int64(1), np.int64(2), 2**60 + 1, "train", "loss", np.float32(0.5), np.float64(1))
    path = write_file(store, "ab", [row], State.DONE, {}, {"C_6nd": 2**60 + 1, "N_total": np.int64(3)}, {})
    assert read_run(path).rows() == [Row("ab", 1, 2, float(2**60), "train", "loss", 0.5, 1.0)]
    assert read_meta(path).columns["C_6nd"] == float(2**60)
    assert len(rebuild(store).table) == 1


@pytest.mark.parametrize(
    ("column", "value"), [("N_total", "many"), ("N_total", 1.5), ("D", 2**63), ("device", 3), ("C_6nd", "1")]
)
def test_a_value_that_would_spoil_the_index_is_refused_at_the_door(store, column, value):
    with pytest.raises(ValueError, match=column):
        write_file(store, "ab", [], State.DONE, {}, {column: value}, {})


def test_leftovers_of_killed_writers_are_removed_and_younger_ones_left(store, lab):
    lab.stored(store, lab.run())
    old, young = store.runs / ".a.parquet.1-2.tmp", store.runs / ".b.parquet.1-2.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.prepare()
    assert not old.exists()
    assert young.exists()
    young.unlink()
    assert len(pl.read_parquet(store.runs)) == len(lab.rows(lab.run()))

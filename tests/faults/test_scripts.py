"""Somebody's scripts, whose processes die at the worst moment."""

import sys
import time

import pytest

from scalectl.commands.status import logs
from scalectl.core.errors import StoreError
from scalectl.core.job import CommandJob, Placement, State
from scalectl.core.rows import Row
from scalectl.core.run import CommandRun
from scalectl.core.source import source_digest
from scalectl.executors.drive import Policy
from scalectl.executors.executor import RunEnded
from scalectl.store.live import live, state_of
from scalectl.store.reader import read_meta
from scalectl.store.writer import write_run
from scalectl.train import command, leases

KEEPER = """\
import json, os, sys
out = sys.argv[1]
with open("starts", "a") as file:
    file.write(" ".join(["out", *sorted(os.listdir(out))]) + "\\n")
if not os.path.exists(f"{out}/model"):
    with open(os.environ["SCALECTL_ROWS"], "a") as rows:
        rows.write(json.dumps({"step": 3, "loss": 1.0}) + "\\n")
    with open(f"{out}/model", "w") as file:
        file.write("weights")
"""


@pytest.fixture
def script(lab):
    def made(text, **more):
        (lab.root / "train.py").write_text(text)
        files = ("train.py",)
        command = (sys.executable, "train.py", "{out}")
        env = more.pop("env", ())
        run = CommandRun(command, (), env, source_digest(lab.root, files), "", files=files, **more)
        return run, CommandJob(run, Placement(search=(str(lab.root),)))

    return made


@pytest.mark.parametrize("place", ["worker.keep", "worker.before_file", "worker.after_file"])
def test_fault_01_what_a_script_keeps_is_whole_wherever_its_worker_dies(lab, script, monkeypatch, place):
    run, job = script(KEEPER, keep=True)
    kept, out = lab.store.kept_folder(run.run_id), live(lab.store, run.run_id).folder / "out"
    monkeypatch.setenv("SCALECTL_FAULT", f"{place}=kill")
    lab.driven(job, policy=Policy(retries=0))
    assert lab.state(run) == ("done" if place == "worker.after_file" else "lost")
    assert [folder for folder in (out, kept) if (folder / "model").exists()] == [
        out if place.endswith("keep") else kept
    ]
    monkeypatch.delenv("SCALECTL_FAULT")
    lab.driven(job)
    assert lab.state(run) == "done"
    assert (kept / "model").read_text() == "weights"
    first, *later = (lab.root / "starts").read_text().splitlines()
    assert first == "out"
    assert set(later) == (set() if place == "worker.after_file" else {"out model"})
    assert [row.step for row in lab.rows(run)] == [3]
    assert not out.parent.exists()


@pytest.mark.parametrize("place", ["", "worker.keep", "worker.before_file"])
def test_fault_08_what_was_kept_is_replaced_when_its_run_is_trained_again(lab, script, monkeypatch, tmp_path, place):
    run, job = script(KEEPER, keep=True)
    lab.driven(job)
    kept = lab.store.kept_folder(run.run_id)
    (kept / "old").mkdir()
    lab.store.run_file(run.run_id).unlink()
    monkeypatch.setenv("SCALECTL_FAULT", f"{place}=kill@{tmp_path / 'once'}" if place else "")
    lab.driven(job)
    assert lab.state(run) == "done"
    assert [path.name for path in kept.parent.iterdir()] == [run.run_id]
    assert [path.name for path in kept.iterdir()] == ["model"]


def test_a_script_that_removed_its_folder_keeps_nothing(lab, script):
    run, job = script(KEEPER + "import shutil; shutil.rmtree(out)", keep=True)
    lab.driven(job)
    assert lab.state(run) == "done"
    assert not lab.store.kept_folder(run.run_id).exists()


def test_fault_16_what_cannot_be_kept_pauses_the_run_and_is_said(lab, script):
    run, job = script(KEEPER, keep=True)
    lab.store.kept.write_text("no folder")
    lab.driven(job)
    assert lab.state(run) == "paused"
    assert (live(lab.store, run.run_id).folder / "out/model").read_text() == "weights"
    lab.store.kept.unlink()
    lab.driven(job)
    assert lab.state(run) == "done"
    assert (lab.store.kept_folder(run.run_id) / "model").read_text() == "weights"


NEIGHBOUR = """\
import json, os, signal, sys
rows, first = os.environ["SCALECTL_ROWS"], not os.listdir(sys.argv[1])
open(f"{sys.argv[1]}/begun", "w").close()
held = ""
for step in (1, 2, 3):
    held += json.dumps({"step": step, "loss": 3.0 / step}) + "\\n"
    with open(rows + ".tmp", "w") as file:
        file.write(held)
    if first and step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    os.replace(rows + ".tmp", rows)
"""


def test_fault_01_what_a_killed_script_left_beside_its_rows_is_no_rows_file(lab, script):
    run, job = script(NEIGHBOUR)
    (live(lab.store, run.run_id).folder / "rows.9").mkdir(parents=True)
    lab.driven(job)
    assert lab.state(run) == "done"
    assert [(row.step, row.value) for row in lab.rows(run)] == [(1, 3.0), (2, 1.5), (3, 1.0)]


SILENT = """\
import json, os, signal, sys, time
begun = f"{sys.argv[1]}/begun"
if os.path.exists(begun):
    sys.exit()
open(begun, "w").close()
time.sleep(2)
with open(os.environ["SCALECTL_ROWS"], "a") as rows:
    rows.write(json.dumps({"step": 1, "loss": 1.0}) + "\\n")
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_fault_01_a_run_whose_last_attempt_had_nothing_to_say_took_what_its_rows_took(lab, script):
    run, job = script(SILENT)
    lab.driven(job)
    assert lab.state(run) == "done"
    seconds = lab.rows(run)[-1].seconds
    assert seconds > 2
    assert seconds < read_meta(lab.store.run_file(run.run_id)).columns["seconds"] < seconds + 2


SAYING = """\
import os
with open(os.environ["SCALECTL_ROWS"], "a") as rows:
    rows.write('''%s''')
"""


@pytest.mark.parametrize("count", ["N", "D"])
def test_fault_10_a_count_that_no_run_can_have_costs_no_run(lab, script, count):
    run, job = script(SAYING % f'{{"step": 1, "loss": 1.0}}\n{{"{count}": 1e30}}', N=100.0, D=2000.0)
    lab.driven(job)
    assert lab.state(run) == "done"
    columns = read_meta(lab.store.run_file(run.run_id)).columns
    assert (columns["N_non_embedding"], columns["D"]) == (100, 2000)


def test_fault_10_what_cannot_be_stored_ends_a_run_as_failed_with_the_reason(lab, script):
    text = SAYING % '{"step": 5, "loss": 1.0}'
    run, job = script(text + "open(os.environ['SCALECTL_OUT'] + '/model', 'w').close()", C=1e308, steps=1, keep=True)
    lab.driven(job)
    meta = read_meta(lab.store.run_file(run.run_id))
    assert meta.state is State.FAILED
    assert meta.message.startswith("what it measured cannot be stored: ")
    assert "is not finite" in meta.message
    assert [(row.step, row.value) for row in lab.rows(run)] == [(5, 1.0)]
    assert (live(lab.store, run.run_id).folder / "out/model").exists()
    run, job = script(text, env=(("NUL", "\0"),))
    lab.driven(job)
    assert read_meta(lab.store.run_file(run.run_id)).message.endswith("cannot be started: embedded null byte")


@pytest.mark.parametrize("name", ["out", "log", "rows.1"])
def test_fault_20_a_link_in_the_folder_of_a_script_is_refused_until_it_is_gone(lab, script, tmp_path, name):
    run, job = script(KEEPER + "print('a word')")
    outside, folder = tmp_path / "outside", live(lab.store, run.run_id).folder
    folder.mkdir()
    if name == "out":
        outside.mkdir()
    else:
        outside.write_text("mine")
    (folder / name).symlink_to(outside)
    events = lab.driven(job)
    assert lab.state(run) == "paused"
    assert any(f"{name} is a symbolic link" in str(event) for event in events)
    assert not (lab.root / "starts").exists()
    if name == "out":
        assert not list(outside.iterdir())
    else:
        assert outside.read_text() == "mine"
    if name == "log":
        with pytest.raises(StoreError, match="log is a symbolic link"):
            logs(run.run_id, str(lab.store.root))
    (folder / name).unlink()
    lab.driven(job)
    assert lab.state(run) == "done"


@pytest.mark.parametrize("name", ["out", "rows.1", "log"])
def test_fault_20_a_link_that_a_script_made_itself_is_not_followed(lab, script, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    remove = "import shutil; shutil.rmtree(out)" if name == "out" else f"os.remove(out + '/../{name}')"
    made = f"{remove}\nos.symlink({str(outside)!r}, os.path.dirname(out) + '/{name}')\n"
    run, job = script(KEEPER + made, keep=True)
    events = lab.driven(job)
    assert lab.state(run) == "paused"
    assert any(f"{name} is a symbolic link" in str(event) for event in events)
    assert not list(outside.iterdir())


def test_fault_20_the_log_of_a_model_is_not_written_through_a_link(lab, tmp_path):
    run = lab.run(steps=20)
    folder, outside = live(lab.store, run.run_id), tmp_path / "notes"
    folder.folder.mkdir()
    folder.log.symlink_to(outside)
    lab.driven(lab.job(run))
    assert lab.state(run) == "done"
    assert not outside.exists()


TALKER = """\
import json, os, time
for step in range(1, 400):
    with open(os.environ["SCALECTL_ROWS"], "a") as rows:
        rows.write(json.dumps({"step": step, "loss": 1 / step}) + "\\n")
    time.sleep(0.02)
"""


@pytest.mark.parametrize("how", ["claimed", "finished", "claimed and silent"])
def test_fault_15_a_script_whose_run_was_taken_over_ends_and_halts_nothing(lab, script, monkeypatch, how):
    run, job = script(TALKER.replace("0.02", "5" if "silent" in how else "0.02"))
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.2)
    folder, told, once = live(lab.store, run.run_id), [], iter([True])

    def rival():
        if folder.last_step() and next(once, False):
            if how == "finished":
                other = Row(run.run_id, 1, 0, 0.0, "held-out", "loss", 7.0, 1.0)
                write_run(lab.store, run, [other], State.DONE, {}, {})
                folder.clear()
            else:
                (folder.folder / "claim.2").write_bytes((folder.folder / "claim.1").read_bytes())
                folder.rewrite([])
        return False

    begun = time.monotonic()
    command.CommandAttempt(lab.store, job, told.append, rival).run()
    assert time.monotonic() - begun < 60
    assert told[-1] == {"event": "busy", "run_id": run.run_id, "message": "taken over by another process"}
    assert not any(message["event"] == "ended" for message in told)
    if how == "finished":
        assert [row.value for row in lab.rows(run)] == [7.0]
    else:
        assert not folder.rows_file.read_bytes()  # nothing of ours among theirs
        assert folder.marker() is None


def test_fault_15_a_script_whose_run_was_brought_meanwhile_leaves_what_is_there(lab, script):
    run, job = script(KEEPER)
    told, once = [], iter([True])

    def bringing():
        if live(lab.store, run.run_id).folder.exists() and next(once, False):
            write_run(lab.store, run, [Row(run.run_id, 3, 0, 0.0, "held-out", "loss", 7.0, 1.0)], State.DONE, {}, {})
        return False

    command.CommandAttempt(lab.store, job, told.append, bringing).run()
    assert told[-1]["event"] == "busy"
    assert [row.value for row in lab.rows(run)] == [7.0]
    assert not live(lab.store, run.run_id).folder.exists()


MIXED = """\
import json, os
with open(os.environ["SCALECTL_ROWS"], "a") as rows:
    for row in ({"step": 1, "loss": 9.5}, {"step": 2, "loss": 9.0}, {"step": 2, "loss": 3.0, "split": "held-out"},
                {"step": 3, "loss": 8.0}, {"step": 4, "loss": 2.5, "split": "held-out"}, {"step": 4, "loss": 7.0}):
        rows.write(json.dumps(row) + "\\n")
    rows.write("epoch done\\n")
"""


def test_losses_of_a_training_never_take_the_place_of_held_out_ones(lab, script):
    run, job = script(MIXED)
    (ended,) = [event for event in lab.driven(job) if isinstance(event, RunEnded)]
    assert [(row.step, row.value) for row in lab.rows(run)] == [(2, 3.0), (4, 2.5)]
    assert ended.message == "left out: 4 rows without a split, as others are held-out; 1 line of the rows file, no row"
    assert read_meta(lab.store.run_file(run.run_id)).message == ""


HANGS = """\
import json, os, time
open("starts", "a").write("up\\n")
with open(os.environ["SCALECTL_ROWS"], "a") as rows:
    rows.write(json.dumps({"step": 1, "loss": 2.0}) + "\\n")
time.sleep(600)
"""


@pytest.mark.parametrize("retries", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_fault_04_a_script_that_hangs_has_run_out_of_time_as_often_as_retries_allow(lab, script, retries):
    run, job = script(HANGS)
    starts = lab.root / "starts"

    def hung():
        """States that are told, and how often it was started."""
        starts.unlink(missing_ok=True)
        told = lab.driven(job, policy=Policy(retries=retries, timeout=4.0))
        ended = [(event.state, event.message) for event in told if isinstance(event, RunEnded)]
        assert set(ended) == {(State.TIMEOUT, "no sign of life for 0:04")}
        return starts.read_text().count("up")

    assert hung() == 2 + retries  # the first came as far as step 1
    assert lab.state(run) == "timeout"
    assert state_of(lab.store, run.run_id).message == "no sign of life for 0:04"
    assert hung() == 1 + retries  # none came further


def test_fault_16_a_script_whose_results_folder_is_removed_ends_the_sweep_with_an_error(lab, script):
    run, job = script(TALKER)
    folder, once = live(lab.store, run.run_id), iter([True])

    def removed():
        if folder.last_step() and next(once, False):
            lab.store.root.rename(lab.root / "gone")
        return False

    told = []
    with pytest.raises(StoreError, match=r"is gone|cannot be written"):
        command.CommandAttempt(lab.store, job, told.append, removed).run()
    assert not any(message["event"] == "busy" for message in told)

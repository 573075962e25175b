"""Runs in flight: rows that survive a crash, one holder at a time, and the truth about every state."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading

import pytest

from scalectl.core.errors import BudgetRefused, StoreBusy, StoreError
from scalectl.core.job import State
from scalectl.core.rows import Row
from scalectl.store import live as live_module
from scalectl.store.live import (
    LEASE,
    Claim,
    Standing,
    begin,
    host_identity,
    live,
    process_start,
    state_of,
    states,
    tidy,
)


def row(step, value=1.0, metric="loss", run_id="ab"):
    return Row(run_id, step, step * 10, 1.5 * step, "train", metric, value, 0.1 * step)


@pytest.fixture
def flight(store):
    held = live(store, "ab")
    held.folder.mkdir()
    return held


def test_rows_come_back_as_they_were_appended(flight):
    flight.append([row(1, 0.1 + 0.2), row(1, metric="loss_se")])
    flight.append([])
    flight.append([row(2)])
    assert flight.rows() == ([row(1, 0.1 + 0.2), row(1, metric="loss_se"), row(2)], ())
    assert flight.last_step() == 2


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_dropped_with_one_note_and_the_next_rows_are_whole(flight, cut):
    flight.append([row(1), row(2), row(3)])
    content = flight.rows_file.read_bytes()
    flight.rows_file.write_bytes(content[:-cut])
    rows, notes = flight.rows()
    assert rows == [row(1), row(2)]
    assert len(notes) == 1
    assert "torn" in notes[0]
    assert flight.last_step() == 2
    flight.append([row(4)])
    assert flight.rows() == ([row(1), row(2), row(4)], ())


def test_a_file_that_is_one_torn_line_starts_again(flight):
    flight.rows_file.write_bytes(b"x" * 200_000)
    assert flight.rows()[0] == []
    flight.append([row(1)])
    assert flight.rows() == ([row(1)], ())


@pytest.mark.parametrize("line", [b"null", b"[1]", b"{}", b'{"run_id": "ab"}', b"\xff\xfe", b"{", b""])
def test_a_line_that_is_no_row_is_left_out_with_a_note(flight, line):
    flight.append([row(1)])
    with flight.rows_file.open("ab") as file:
        file.write(line + b"\n")
    flight.append([row(2)])
    rows, notes = flight.rows()
    assert rows == [row(1), row(2)]
    assert notes == ("run ab: unreadable lines of rows.jsonl, left out: 1",)


def test_a_row_that_is_not_finite_is_refused_by_append_and_left_out_by_rows(flight):
    with pytest.raises(ValueError, match="not JSON compliant"):
        flight.append([row(1), row(2, float("nan"))])
    assert flight.rows() == ([], ())
    flight.append([row(1)])
    flight.rows_file.write_bytes(flight.rows_file.read_bytes().replace(b'"value": 1.0', b'"value": NaN'))
    assert flight.rows()[0] == []


def test_rows_of_another_run_are_refused_in_flight(flight):
    with pytest.raises(ValueError, match="a row of run cd"):
        flight.append([row(1, run_id="cd")])


def test_steps_written_twice_count_once_and_the_later_row_wins(flight):
    flight.append([row(10, 1.0), row(20, 2.0), row(30, 3.0)])
    flight.append([row(20, 2.5), row(40, 4.0)])
    rows, notes = flight.rows()
    assert [(r.step, r.value) for r in rows] == [(10, 1.0), (20, 2.5), (30, 3.0), (40, 4.0)]
    assert notes == ("run ab: rows written twice, of which the later ones count: 1",)


def test_resuming_cuts_the_rows_back_to_the_checkpoint(flight):
    flight.append([row(step) for step in (10, 20, 30)])
    flight.truncate(20)
    flight.append([row(30, 9.0)])
    assert flight.rows() == ([row(10), row(20), row(30, 9.0)], ())


def test_a_full_disk_keeps_the_whole_lines_and_the_earlier_checkpoint(flight):
    flight.append([row(1)])
    flight.save_checkpoint(b"old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(BudgetRefused):
            flight.append([row(step) for step in range(2, 100)])
        with pytest.raises(BudgetRefused):
            flight.save_checkpoint(lambda file: file.write(b"x" * 10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert flight.rows() == ([row(1)], ())
    assert flight.checkpoint.read_bytes() == b"old"


def test_rows_are_never_written_through_a_link(flight, tmp_path):
    (tmp_path / "mine").write_text("precious")
    flight.rows_file.symlink_to(tmp_path / "mine")
    with pytest.raises(StoreError):
        flight.append([row(1)])
    assert (tmp_path / "mine").read_text() == "precious"


def test_clearing_unlinks_links_and_never_follows_them(flight, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("precious")
    (flight.folder / "checkpoint").symlink_to(tmp_path / "data")
    flight.log.write_text("said")
    flight.clear(keep_log=True)
    assert [entry.name for entry in flight.folder.iterdir()] == ["log"]
    (flight.folder / "checkpoint").symlink_to(tmp_path / "data")
    flight.clear()
    assert not flight.folder.exists()
    assert (tmp_path / "data" / "mine").read_text() == "precious"
    flight.clear()


def test_a_live_folder_that_links_out_of_the_store_is_refused(store, tmp_path):
    (store.lives / "ab").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="symbolic link out of the store"):
        live(store, "ab")


# --- claims ----------------------------------------------------------------------------------------------------------


def test_a_claimed_run_is_busy_until_it_is_released(flight):
    claim = flight.claim()
    with pytest.raises(StoreBusy, match=f"process {os.getpid()}") as caught:
        flight.claim()
    assert caught.value.exit_code == 75
    claim.release()
    again = flight.claim()
    assert again.number == claim.number + 1
    assert not claim.held()
    assert [path.name for path in flight.folder.iterdir()] == [again.path.name]


RIVAL = """
import os, sys, time
from pathlib import Path
from scalectl.core.errors import StoreBusy
from scalectl.store.live import Live
folder = Path(sys.argv[1])
print("ready", flush=True)
while not (folder.parent / "go").exists():
    pass
try:
    Live("ab", folder).claim()
except StoreBusy:
    print("busy", flush=True)
else:
    print("mine", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("before", ["free", "dead"])
def test_of_several_processes_exactly_one_takes_a_run(flight, before):
    if before == "dead":
        dead = sleeper()
        held_by(flight, dead)
        ended(dead)
    arguments = [sys.executable, "-c", RIVAL, str(flight.folder)]
    rivals = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        assert [rival.stdout.readline() for rival in rivals] == ["ready\n"] * 4
        (flight.folder.parent / "go").touch()
        assert sorted(rival.stdout.readline() for rival in rivals) == ["busy\n"] * 3 + ["mine\n"]
    finally:
        for rival in rivals:
            ended(rival)


def test_of_many_threads_taking_over_from_a_dead_holder_one_wins_each_time(flight):
    """Every rival reads the dead claim before any of them links: the barrier makes the race happen."""
    for _ in range(20):
        last = flight.claim()
        last.release()
        barrier, won = threading.Barrier(4), []

        def rival(barrier=barrier, won=won):
            barrier.wait()
            with contextlib.suppress(StoreBusy):
                won.append(flight.claim())

        threads = [threading.Thread(target=rival) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        won[0].release()


SLEEPER = "import time; print('up', flush=True); time.sleep(60)"


def sleeper():
    process = subprocess.Popen([sys.executable, "-S", "-c", SLEEPER], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    return process


def ended(process):
    process.kill()
    process.wait()
    process.stdout.close()


def held_by(flight, process, **change):
    """Rewrites this process's claim as that of another one."""
    claim = flight.claim()
    data = json.loads(claim.path.read_text())
    data |= {"pid": process.pid, "started": process_start(process.pid)} | change
    claim.path.write_text(json.dumps(data))


def test_a_killed_holder_is_lost_at_once_even_as_a_zombie(store, flight):
    process = sleeper()
    try:
        held_by(flight, process)
        flight.append([row(7)])
        assert state_of(store, "ab") == Standing(State.RUNNING, "", 7)
        with pytest.raises(StoreBusy):
            flight.claim()
        process.send_signal(signal.SIGKILL)
        # Not reaped yet, so it stays a zombie: waitid leaves it in the table.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        lost = state_of(store, "ab")
        assert (lost.state, lost.step) == (State.LOST, 7)
        assert f"process {process.pid}" in lost.message
        flight.claim()
        assert state_of(store, "ab").state is State.RUNNING
    finally:
        ended(process)


def test_a_reused_pid_is_a_stranger_and_is_never_signalled(store, flight):
    process = sleeper()
    try:
        held_by(flight, process, started=process_start(process.pid) - 1)
        assert state_of(store, "ab").state is State.LOST
        flight.claim()
        assert process.poll() is None
    finally:
        ended(process)


def test_a_holder_on_another_host_is_dead_when_its_lease_runs_out(flight):
    claim = flight.claim(host="there/1/pid", now=1000.0)
    with pytest.raises(StoreBusy, match="on there"):
        flight.claim(host="here/2/pid", now=1000.0 + LEASE - 1)
    claim = claim.beat(now=1100.0)
    with pytest.raises(StoreBusy):
        flight.claim(host="here/2/pid", now=1100.0 + LEASE - 1)
    taken = flight.claim(host="here/2/pid", now=1100.0 + LEASE)
    assert taken.held()
    with pytest.raises(StoreBusy, match="taken over"):
        claim.beat(now=1100.0 + LEASE + 1)
    claim.release()
    assert flight.holder() == taken.holder


def test_the_clock_does_not_decide_about_a_holder_on_this_host(flight):
    flight.claim(now=0.0)
    with pytest.raises(StoreBusy):
        flight.claim(now=86_400.0 * 365)


def test_the_highest_claim_counts_after_a_late_beat_of_an_old_holder(flight):
    old = flight.claim(host="there/1/pid", now=0.0)
    new = flight.claim(host="here/2/pid", now=LEASE)
    old.path.write_text(new.path.read_text())
    assert flight.holder() == new.holder
    assert new.held()


def test_a_rival_that_looked_before_two_others_came_and_went_does_not_take_the_run(flight):
    slow = Claim(flight.folder, 1, flight.claim().holder)
    for _ in range(2):
        Claim(flight.folder, max(numbers(flight)), flight.holder()).release()
        last = flight.claim()
    assert not slow.path.exists()
    folder = os.open(flight.folder, os.O_RDONLY)
    try:
        with pytest.raises(StoreBusy):
            flight._link(slow, folder)
    finally:
        os.close(folder)
    assert numbers(flight) == [last.number]
    assert last.held()


def test_a_claim_is_not_linked_into_a_folder_that_took_the_place_of_the_one_that_was_read(flight):
    flight.claim().release()
    slow = Claim(flight.folder, 2, flight.holder())
    folder = os.open(flight.folder, os.O_RDONLY)
    try:
        flight.clear()
        first = flight.claim()
        assert first.number == 1
        assert not flight._link(slow, folder)
    finally:
        os.close(folder)
    assert first.held()
    assert [entry.name for entry in flight.folder.parent.iterdir()] == ["ab"]


def test_clearing_all_but_the_log_frees_the_run_and_keeps_the_number(store, flight):
    flight.log.write_text("said")
    claim = flight.claim()
    flight.append([row(1)])
    flight.clear(keep_log=True)
    assert sorted(entry.name for entry in flight.folder.iterdir()) == ["claim.1", "log"]
    assert state_of(store, "ab") == Standing(State.PENDING, "", 0)
    assert flight.claim().number == claim.number + 1


def test_a_folder_left_by_a_killed_clearing_is_removed_later(store, flight):
    left = store.lives / ".ab.123-0badcafe.tmp"
    flight.folder.rename(left)
    (left / "log").write_text("said")
    (store.lives / ".mine.tmp").mkdir()
    for entry in store.lives.iterdir():
        os.utime(entry, (0, 0))
    store.prepare()
    assert [entry.name for entry in store.lives.iterdir()] == [".mine.tmp"]


CLAIMER = """
import os, random, sys, time
from pathlib import Path
from scalectl.core.errors import StoreBusy
from scalectl.store.live import Live
lives, seed = Path(sys.argv[1]), int(sys.argv[2])
flight, mark, draw = Live("ab", lives / "ab"), lives.parent / "held", random.Random(seed)
print("ready", flush=True)
while not (lives.parent / "go").exists():
    pass
taken, end = 0, time.monotonic() + 60
while taken < 30 and time.monotonic() < end:
    try:
        claim = flight.claim()
    except StoreBusy:
        continue
    os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # fails if another process holds the run as well
    assert claim.held()
    flight.log.write_text("said")
    os.unlink(mark)
    taken += 1
    how = draw.random()
    if how < 0.6:
        flight.clear()
    elif how < 0.8:
        flight.clear(keep_log=True)
    else:
        claim.release()
print(taken, flush=True)
"""


def test_claims_against_clearings_meet_nothing_but_busy_and_never_two_holders(store):
    arguments = [sys.executable, "-c", CLAIMER, str(store.lives)]
    rivals = [
        subprocess.Popen([*arguments, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for seed in range(4)
    ]
    try:
        assert [rival.stdout.readline() for rival in rivals] == ["ready\n"] * 4
        (store.root / "go").touch()
        answers = [rival.communicate(timeout=90) for rival in rivals]
    finally:
        for rival in rivals:
            ended(rival)
    assert [error for _, error in answers] == [""] * 4
    assert [taken for taken, _ in answers] == ["30\n"] * 4
    assert {entry.name for entry in store.lives.iterdir()} <= {"ab"}


def numbers(flight):
    return sorted(int(path.name.removeprefix("claim.")) for path in flight.folder.glob("claim.*"))


def test_a_run_that_a_rival_has_just_finished_is_not_begun_again(store, lab):
    run = lab.run()
    held, claim = begin(store, run.run_id)
    assert claim.held()
    with pytest.raises(StoreBusy):
        begin(store, run.run_id)
    claim.release()
    lab.stored(store, run)
    assert begin(store, run.run_id) is None
    assert not held.folder.exists()


def test_what_a_killed_process_left_of_a_finished_run_is_tidied_unless_it_is_held(store, lab):
    run = lab.run()
    _, claim = begin(store, run.run_id)
    lab.stored(store, run)
    tidy(store, [run.run_id])
    assert live(store, run.run_id).folder.is_dir()  # this process holds it
    claim.release()
    tidy(store, [run.run_id, "0123456789abcdef"])
    assert not live(store, run.run_id).folder.exists()


@pytest.mark.parametrize("looked", ["refresh", "standing"])
def test_a_run_that_ends_between_two_looks_is_done_and_not_pending(store, lab, monkeypatch, looked):
    run = lab.run()
    held, _ = begin(store, run.run_id)
    look, once = getattr(live_module, looked), iter([True])

    def ended_meanwhile(*given):
        if looked == "standing" and next(once, False):
            end()
        found = look(*given)
        if looked == "refresh" and next(once, False):
            end()
        return found

    def end():
        lab.stored(store, run)
        held.clear()

    monkeypatch.setattr(live_module, looked, ended_meanwhile)
    assert states(store, [run.run_id, "0123456789abcdef"]) == {
        run.run_id: Standing(State.DONE, "", 60),
        "0123456789abcdef": Standing(State.PENDING, "", 0),
    }


def test_the_state_of_one_run_that_ends_between_two_looks_is_done(store, lab, monkeypatch):
    run = lab.run()
    held, _ = begin(store, run.run_id)
    look, once = live_module.standing, iter([True])

    def ended_meanwhile(*given):
        if next(once, False):
            lab.stored(store, run)
            held.clear()
        return look(*given)

    monkeypatch.setattr(live_module, "standing", ended_meanwhile)
    assert state_of(store, run.run_id).state is State.DONE


def test_a_failed_run_can_be_begun_again(store, lab):
    run = lab.run()
    lab.stored(store, run, state=State.FAILED, rows=[])
    assert begin(store, run.run_id) is not None


def test_a_run_is_released_even_when_the_disk_is_full(store, flight):
    claim = flight.claim()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
    try:
        claim.release()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert state_of(store, "ab").state is State.PENDING
    assert flight.claim().number == claim.number + 1


def test_a_claim_that_cannot_be_read_is_nobodys(flight):
    (flight.folder / "claim.3").write_text("{")
    assert flight.claim().number == 4


def test_identities_of_processes():
    assert process_start(os.getpid()) == process_start(os.getpid())
    assert process_start(4_194_400) is None  # above the largest pid that Linux gives out (2^22)
    assert host_identity() == host_identity()


# --- states ----------------------------------------------------------------------------------------------------------


def test_a_run_that_nobody_began_is_pending(store):
    assert state_of(store, "ab") == Standing(State.PENDING, "", 0)


@pytest.mark.parametrize("state", [State.PAUSED, State.TIMEOUT, State.OOM, State.LOST])
def test_a_marked_and_released_run_stands_where_it_was_marked(store, flight, state):
    claim = flight.claim()
    flight.mark(state, "because", 30)
    assert state_of(store, "ab").state is State.RUNNING
    claim.release()
    assert state_of(store, "ab") == Standing(state, "because", 30)


def test_a_resumed_run_that_dies_is_lost_not_paused(store, flight):
    claim = flight.claim()
    flight.mark(State.PAUSED, "Ctrl-C", 30)
    claim.release()
    process = sleeper()
    held_by(flight, process)
    ended(process)
    assert state_of(store, "ab").state is State.LOST


def test_a_finished_file_is_the_truth_whatever_the_live_folder_says(store, lab):
    run = lab.run()
    lab.stored(store, run)
    live(store, run.run_id).claim()
    assert state_of(store, run.run_id) == Standing(State.DONE, "", 60)


def test_a_failed_run_that_is_tried_again_is_running(store, lab):
    run = lab.run()
    lab.stored(store, run, state=State.FAILED, rows=[], message="ValueError: no")
    assert state_of(store, run.run_id) == Standing(State.FAILED, "ValueError: no", 0)
    claim = live(store, run.run_id).claim()
    assert state_of(store, run.run_id).state is State.RUNNING
    claim.release()
    assert state_of(store, run.run_id).state is State.FAILED


def test_a_damaged_file_leaves_the_run_pending(store, lab):
    run = lab.run()
    lab.stored(store, run).write_bytes(b"PAR1")
    assert state_of(store, run.run_id).state is State.PENDING


@pytest.mark.parametrize("content", [b"", b"{}", b'{"state": "asleep", "message": "", "step": 0}', b"[]"])
def test_a_marker_that_cannot_be_read_is_none(store, flight, content):
    (flight.folder / "state.json").write_bytes(content)
    assert flight.marker() is None
    assert state_of(store, "ab").state is State.PENDING


def test_the_states_of_many_runs_are_those_of_each(store, lab):
    runs = [lab.run(seed=seed) for seed in range(5)]
    lab.stored(store, runs[0])
    lab.stored(store, runs[1], state=State.DIVERGED, message="at step 40", rows=[])
    lab.stored(store, runs[2], state=State.FAILED, message="no", rows=[])
    live(store, runs[2].run_id).claim()
    live(store, runs[3].run_id).claim()
    found = states(store, [run.run_id for run in runs])
    assert [standing.state for standing in found.values()] == ["done", "diverged", "running", "running", "pending"]
    assert found == {run.run_id: state_of(store, run.run_id) for run in runs}


def test_a_run_let_go_on_a_full_disk_is_paused_at_its_checkpoint(store, flight):
    flight.append([row(3)])
    flight.save_checkpoint(b"somewhere")
    claim = flight.claim()
    os.truncate(claim.path, 0)  # as `release` does where not even a reason fits
    assert state_of(store, "ab") == Standing(State.PAUSED, "stopped at a checkpoint", 3)

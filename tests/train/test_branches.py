"""A branch of a trunk equals the run that had planned its length, whatever happens on the way."""

import math
import os
import signal

import pytest
from support import pairwise
from timeless import by_run

from scalectl.core.job import Job, Placement, State
from scalectl.optim.trunks import occupancy, trunks
from scalectl.store.layout import open_store
from scalectl.store.live import live, state_of
from scalectl.store.reader import read_meta, read_run
from scalectl.store.writer import write_run
from scalectl.train.attempt import Attempt
from scalectl.train.loop import Ended, Split, Trainer, train

VARIANTS = [
    {},
    {"position": "rotary", "norm": "rms", "bias": False},
    {"position": "sinusoidal", "tie": False},
    {"d_model": 64},
    {"sequences": 1, "context": 32, "d_model": 8, "position": "rotary"},
    {"family": "encoder-decoder", "d_model": 32, "sequences": 32},
    {"family": "vit", "d_model": 32, "sequences": 32},
]
# steps and cooldown: splits at 8, 7, 10, 18 and 23, with evaluations every 5 and 3 on some of them and beside others
LENGTHS = ((9, 0), (11, 4), (13, 3), (24, 6), (24, 0))


def alone(runs):
    return {run.run_id: by_run(train(Job((run,), Placement())))[run.run_id] for run in runs}


def grid(make_run, seeds=(0,), lengths=LENGTHS, **options):
    return [make_run(seed=seed, steps=steps, decay=decay, **options) for seed in seeds for steps, decay in lengths]


def drain(trainer):
    events = list(trainer.splits)
    while trainer.running:
        events += trainer.step()
    return events


@pytest.mark.parametrize(("variant", "how"), pairwise(VARIANTS, [("fp32", 3), ("bf16", 5), ("fp16", 4)]), ids=str)
def test_branches_equal_the_planned_runs_bit_for_bit(make_run, variant, how):
    precision, every = how
    runs = grid(make_run, seeds=(0, 1), precision=precision, every=every, **variant)
    trainer = Trainer(Job(tuple(runs), Placement()))
    assert by_run(drain(trainer)) == alone(runs)
    per_seed = 24 + 1 + 4 + 3 + 6  # the trunk once, and the cooldowns that leave it
    assert trainer.tokens == 2 * per_seed * runs[0].batch_tokens


@pytest.mark.parametrize("rows", [1, 2, 3, None])
def test_rows_come_and_go_as_the_plan_expects(make_run, rows):
    runs = grid(make_run, seeds=(0, 1))
    trainer = Trainer(Job(tuple(runs), Placement(rows=rows)))
    expected = [k for k, steps in occupancy(trunks(runs), rows) for _ in range(steps)]
    seen = []
    while trainer.running:
        seen.append(len(trainer.seats))
        trainer.step()
    assert seen == expected


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_cooldowns_come_before_their_trunks_where_there_is_no_room_for_both(make_run, rows):
    runs = grid(make_run, seeds=(0, 1), context=17, d_model=20)
    trainer = Trainer(Job(tuple(runs), Placement(rows=rows)))
    events = drain(trainer)
    assert trainer.widest == rows
    if rows == 1:  # a shape that rounds otherwise in a pack
        assert by_run(events) == alone(runs)
        ends = [event.run_id for event in events if isinstance(event, Ended)]
        lengths = [next(run.steps for run in runs if run.run_id == run_id) for run_id in ends[:4]]
        assert lengths == [11, 9, 13, 24]
    assert trainer.tokens == 2 * 38 * runs[0].batch_tokens


def test_a_run_that_waits_for_a_place_does_not_count_the_time(make_run):
    short, long = grid(make_run, lengths=((40, 38), (41, 1)))
    trainer = Trainer(Job((short, long), Placement(rows=1)))
    while short.run_id not in trainer.active:
        trainer.step()
    before = trainer.progress(long.run_id).seconds
    while short.run_id in trainer.active:
        assert trainer.progress(long.run_id).seconds == before
        trainer.step()


def test_branching_can_be_turned_off(make_run):
    runs = grid(make_run)
    trainer = Trainer(Job(tuple(runs), Placement(branch=False)))
    assert len(trainer.active) == trainer.widest == len(runs)
    assert by_run(drain(trainer)) == alone(runs)
    assert trainer.tokens == sum(run.tokens for run in runs)


def test_what_is_not_shared_is_not_branched(make_run):
    runs = [make_run(steps=12), make_run(steps=24, lr=1e-3), make_run(steps=24, seed=1), make_run(steps=24, clip=0.5)]
    assert Trainer(Job(tuple(runs), Placement())).following == {}


@pytest.mark.parametrize("ahead", [2, 7, 100])
def test_an_engine_that_looks_ahead_stops_at_every_split(make_run, ahead):
    runs = grid(make_run, seeds=(0, 1))
    trainer = Trainer(Job(tuple(runs), Placement()))
    trainer.engine.ahead = ahead
    assert by_run(drain(trainer)) == alone(runs)


def test_what_ends_a_trunk_ends_its_branches_at_the_same_step(make_run):
    bad = grid(make_run, lr=1e30, clip=0.0, weight_decay=0.0, every=1)
    good = grid(make_run, seeds=(3,), every=1)
    found = by_run(train(Job((*bad, *good), Placement())))
    assert found == alone([*bad, *good])
    ends = {found[run.run_id][-1] for run in bad}
    assert {(end.state, end.step) for end in ends} == {(State.DIVERGED, ends.pop().step)}


def test_a_branch_that_ends_worse_than_a_guess_has_diverged_by_itself(make_run):
    runs = grid(make_run, lengths=((30, 10), (60, 20)), lr=5.0, clip=0.0, every=10)
    found = by_run(train(Job(tuple(runs), Placement())))
    assert found == alone(runs)
    assert "a uniform guess has 3.466" in found[runs[0].run_id][-1].message


def test_a_run_that_leaves_hands_its_trunk_to_the_next(make_run):
    runs = grid(make_run, lengths=((11, 4), (13, 3), (24, 6)))
    short, middle, long = runs
    trainer = Trainer(Job(tuple(runs), Placement()))
    events = [event for _ in range(5) for event in trainer.step()]
    assert trainer.leave(short.run_id) == []
    assert trainer.leave(long.run_id) == [Split(middle.run_id, long.run_id, 5)]
    events += [Split(middle.run_id, long.run_id, 5), *drain(trainer)]
    assert by_run(events)[middle.run_id] == alone([middle])[middle.run_id]
    assert {event.run_id for event in events if isinstance(event, Ended)} == {middle.run_id}


@pytest.fixture
def store(tmp_path):
    return store_at(tmp_path / "results")


def store_at(path):
    found = open_store(path)
    found.prepare()
    return found


def attempt(store, *runs, stopping=lambda: False, checkpoint_seconds=0.0, **placement):
    told = []
    job = Job(tuple(runs), Placement(checkpoint_seconds=checkpoint_seconds, **placement))
    Attempt(store, job, told.append, stopping).run()
    return told


def measured(store, runs):
    """Everything that the files of runs say about them, but for the times."""
    found = {}
    for run in runs:
        held = read_run(store.run_file(run.run_id))
        found[run.run_id] = held.meta.state, held.meta.message, [row._replace(seconds=0.0) for row in held.rows()]
    return found


def killed(work):
    """Do some work in a process of its own, which kills itself with SIGKILL on the way."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def after(count, act):
    """A function that does nothing `count` times, then acts; it says False."""
    left = iter(range(count))

    def call(*_):
        if next(left, None) is None:
            act()
        return False

    return call


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(make_run, tmp_path_factory):
    """A quiet sweep of runs one by one: what every other way must give."""
    runs = grid(make_run, seeds=(0, 1), lengths=((9, 0), (13, 3), (24, 6)))
    quiet = store_at(tmp_path_factory.mktemp("quiet"))
    for run in runs:
        attempt(quiet, run)
    return runs, measured(quiet, runs)


def test_branches_on_disk_equal_planned_runs_and_say_where_they_split(store, undisturbed):
    runs, expected = undisturbed
    attempt(store, *runs)
    assert measured(store, runs) == expected
    about = [read_meta(store.run_file(run.run_id)).provenance for run in runs[:3]]
    assert [(held["split"], held["pack"]) for held in about] == [(8, 4), (10, 4), (0, 4)]
    assert about[0]["device_seconds"] < about[2]["device_seconds"]  # a trunk's time is its carrier's
    assert not list(store.lives.iterdir())


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 10, 11, 13, 20])
@pytest.mark.parametrize("often", [True, False])
def test_a_kill_at_any_step_loses_nothing(store, undisturbed, steps, often):
    runs, expected = undisturbed
    seconds = 0.0 if often else 1e9
    assert killed(lambda: attempt(store, *runs, stopping=after(steps, die), checkpoint_seconds=seconds))
    states = {run.run_id: state_of(store, run.run_id).state for run in runs}
    assert set(states.values()) <= {State.LOST, State.DONE}
    told = attempt(store, *runs)
    assert measured(store, runs) == expected
    began = next(message for message in told if message["event"] == "began")["runs"]
    # without checkpoints in between, a trunk goes on from where the last branch left it
    assert began[runs[2].run_id] == (steps if often else max(s for s in (0, 8, 10) if s <= steps))


def test_a_kill_at_any_write_loses_nothing(undisturbed, tmp_path, monkeypatch):
    from scalectl.store import live as module

    runs = undisturbed[0][:3]
    expected = {run.run_id: undisturbed[1][run.run_id] for run in runs}

    write, writes = module.atomic_write, 0
    while True:
        place = store_at(tmp_path / f"results-{writes}")
        count = after(writes, die)

        def counted(*arguments, count=count, **named):
            count()
            write(*arguments, **named)

        def work(place=place, counted=counted):
            monkeypatch.setattr(module, "atomic_write", counted)
            attempt(place, *runs, checkpoint_seconds=1e9)

        died = killed(work)
        attempt(place, *runs)
        assert measured(place, runs) == expected
        if not died:
            break
        writes += 1
    assert writes > 9


def test_a_stop_pauses_what_has_a_row_and_leaves_the_others_pending(store, undisturbed):
    runs, expected = undisturbed
    asked = iter([False] * 7)
    told = attempt(store, *runs[:3], stopping=lambda: next(asked, True))
    ends = {message["run_id"]: message["state"] for message in told if message["event"] == "ended"}
    assert [ends[run.run_id] for run in runs[:3]] == [State.PENDING, State.PENDING, State.PAUSED]
    assert [state_of(store, run.run_id).state for run in runs[:3]] == [State.PENDING, State.PENDING, State.PAUSED]
    assert state_of(store, runs[2].run_id).step == 5
    attempt(store, *runs[:3])
    assert measured(store, runs[:3]) == {run.run_id: expected[run.run_id] for run in runs[:3]}


def test_a_run_that_follows_a_trunk_says_so(store, undisturbed):
    runs, _ = undisturbed
    said = []

    def look():
        said.append({run.run_id: state_of(store, run.run_id) for run in runs[:3]})

    attempt(store, *runs[:3], stopping=after(9, look))
    short, middle, long = (run.run_id for run in runs[:3])
    assert said[0][middle] == (State.RUNNING, f"one with run {long[:6]} until step 10", 0)
    assert said[0][short].state is State.DONE
    assert said[0][long] == (State.RUNNING, "", 5)
    assert said[1][middle] == (State.RUNNING, "", 10)


def test_a_length_that_is_asked_for_later_goes_on_from_the_trunk_that_is_there(store, undisturbed):
    runs, expected = undisturbed
    short, middle, long = runs[:3]
    asked = iter([False] * 6)
    attempt(store, middle, stopping=lambda: next(asked, True))
    told = attempt(store, short, middle, long)
    assert next(message for message in told if message["event"] == "began")["runs"] == {long.run_id: 6}
    assert measured(store, runs[:3]) == {run.run_id: expected[run.run_id] for run in runs[:3]}


def test_lengths_that_are_asked_for_when_the_trunk_is_gone_train_one_for_all(store, undisturbed):
    runs, expected = undisturbed
    short, middle, long = runs[:3]
    attempt(store, long)
    told = attempt(store, short, middle, long)
    assert next(message for message in told if message["event"] == "began")["runs"] == {middle.run_id: 0}
    assert measured(store, runs[:3]) == {run.run_id: expected[run.run_id] for run in runs[:3]}


@pytest.mark.parametrize("held", [0, 1, 2])
def test_a_run_that_another_process_holds_stops_none_of_the_others(store, undisturbed, held):
    runs, expected = undisturbed
    claim = live(store, runs[held].run_id).claim()
    told = attempt(store, *runs[:3])
    assert [message["run_id"] for message in told if message["event"] == "busy"] == [runs[held].run_id]
    others = [run for i, run in enumerate(runs[:3]) if i != held]
    assert measured(store, others) == {run.run_id: expected[run.run_id] for run in others}
    claim.release()
    attempt(store, *runs[:3])
    assert measured(store, runs[:3]) == {run.run_id: expected[run.run_id] for run in runs[:3]}


def test_a_trunk_that_somebody_took_over_goes_on_without_its_run(store, undisturbed, monkeypatch):
    runs, expected = undisturbed
    short, middle, long = runs[:3]
    monkeypatch.setattr("scalectl.train.attempt.LOOK_SECONDS", 0.0)
    folder = live(store, long.run_id).folder

    def rival():  # it saw our lease run out: the next number is theirs
        (folder / "claim.2").write_bytes((folder / "claim.1").read_bytes())

    told = attempt(store, short, middle, long, stopping=after(6, rival))
    assert {message["run_id"] for message in told if message["event"] == "busy"} == {long.run_id}
    assert measured(store, (short, middle)) == {run.run_id: expected[run.run_id] for run in (short, middle)}
    assert read_meta(store.run_file(middle.run_id)).provenance["split"] == 7


@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.parametrize("how", ["claimed", "finished", "brought"])
def test_a_run_that_is_taken_over_meanwhile_stops_none_of_the_others(store, undisturbed, tmp_path, how, taken):
    runs, expected = undisturbed
    mine = runs[taken]
    quiet = store_at(tmp_path / "quiet")
    attempt(quiet, mine)
    theirs = quiet.run_file(mine.run_id).read_bytes()
    folder, once = live(store, mine.run_id), iter([True])

    def rival():
        if not next(once, False):
            return
        if how == "claimed":  # our lease ran out: the next number is theirs
            (folder.folder / "claim.2").write_bytes((folder.folder / "claim.1").read_bytes())
            folder.checkpoint.unlink(missing_ok=True)
            folder.rewrite([])
        elif how == "finished":
            store.run_file(mine.run_id).write_bytes(theirs)
            folder.clear()
        else:  # by an import, from a machine that rounds otherwise
            rows = [row._replace(value=row.value + 1e-6) for row in read_run(quiet.run_file(mine.run_id)).rows()]
            about = read_meta(quiet.run_file(mine.run_id)).provenance
            write_run(store, mine, rows, State.DONE, about, {})

    told = attempt(store, *runs[:3], stopping=after(6, rival))
    assert {message["run_id"] for message in told if message["event"] == "busy"} == {mine.run_id}
    others = [run for run in runs[:3] if run is not mine]
    assert measured(store, others) == {run.run_id: expected[run.run_id] for run in others}
    if how == "claimed":
        assert not folder.rows_file.read_bytes()  # nothing of ours among theirs
        assert not folder.checkpoint.exists()
    else:
        assert state_of(store, mine.run_id).state is State.DONE
        assert not folder.folder.exists()
        assert (store.run_file(mine.run_id).read_bytes() == theirs) == (how == "finished")


def test_a_trunk_that_diverges_before_a_kill_takes_its_branches_along(store, make_run, tmp_path):
    runs = grid(make_run, lr=1e30, clip=0.0, weight_decay=0.0, every=1)
    quiet = store_at(tmp_path / "quiet")
    for run in runs:
        attempt(quiet, run)
    attempt(store, *runs)
    assert measured(store, runs) == measured(quiet, runs)
    assert {held[0] for held in measured(store, runs).values()} == {State.DIVERGED}
    assert all(math.isfinite(row.value) for held in measured(store, runs).values() for row in held[2])

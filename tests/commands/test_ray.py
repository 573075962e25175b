"""Sweeps on Ray: how many pilots, following them whatever befalls them, stopping; with a module `ray` of our own."""

import contextlib
import json
import os
import shutil
import sys
import threading
import time

import pandas as pd
import psutil
import pytest
from cluster import wait_for
from fake_ray import FakeRay, NodeDiedError
from support import REPOSITORY, SWEEP

from scalectl.commands import background, pilots, ray
from scalectl.commands.pilots import Said
from scalectl.commands.sweep import prepare
from scalectl.core.errors import ScalectlError, UsageError
from scalectl.core.job import State
from scalectl.executors import ray as client
from scalectl.executors.drive import Halted
from scalectl.executors.submission import Submission, log_of, submissions, write_submission
from scalectl.store.live import live, states

MINE = f"""\
name = "mine"
[run]
command = ["{sys.executable}", "plain.py", "--width", "{{width}}", "--seed", "0", "--pause", "{{pause}}", "--out", "{{out}}"]
[params]
width = {{ grid = [1, 2, 3, 4] }}
pause = 0.01
[on_error]
retries = 1
"""  # noqa: E501 one line of TOML


ROW = """open(os.environ["SCALECTL_ROWS"], "a").write('{"step": 40, "loss": 1.0}\\n')\n"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    module = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", module)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(pilots, "STORE_SECONDS", 0.02)
    monkeypatch.setattr(client, "_reachable", lambda address: module.answers)
    yield module
    module.shutdown()
    wait_for(lambda: not scripts())


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """`mine(block, changes)` prepares a sweep of four runs of a script, a second each and less."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "tests/scripts/plain.py", tmp_path)

    def prepared(block="", *changes):
        text = MINE + block
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        (tmp_path / "mine.toml").write_text(text)
        return prepare("mine.toml", "results")

    return prepared


def scripts():
    """Living processes of pilots and of the script, of this test's own."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if {"plain.py", "pilot"} & set(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def followed(prepared, stopping=lambda: 0, **more):
    """What was said, without who trains what, and what halted it."""
    held = ray.fleet(prepared, pilots.wanted(prepared))
    prepared = pilots.following(prepared, held.pilots * held.slots)
    cluster = ray.join(prepared)
    try:
        events = list(ray.watch(prepared, cluster, stopping, **more))
    finally:
        cluster.close()
    said = [event.text.strip() for event in events if isinstance(event, Said)]
    return said, [event.why for event in events if isinstance(event, Halted)]


def found_states(prepared):
    return [held.state for held in states(prepared.store, prepared.plan.run_ids).values()]


def whole(folder):
    """Every run of the script is there, each row once."""
    frame = pd.read_parquet(folder / "results/runs")
    assert not frame.duplicated(["run_id", "step", "split", "metric"]).any()
    return frame["run_id"].nunique() == 4 and set(frame.groupby("run_id")["step"].max()) == {40}


def in_flight(tmp_path, count=1):
    """Runs that have written a checkpoint, once there are so many."""
    wait_for(lambda: len(list(tmp_path.glob("results/live/*/out/checkpoint.json"))) >= count)


@pytest.mark.parametrize(
    ("block", "room", "count", "cpus"),
    [
        ("", None, 6, 1),
        ("", 2, 2, 1),
        ("", 50, 6, 1),
        ("pilots = 3\n", 50, 3, 1),
        ("cpus = 2\n", 50, 3, 2),
        ("gpus = 2\n", 50, 3, 2),
        ("gpus = 1\ncpus = 8\n", 50, 6, 8),
        ("[runtime]\nslots = 2\n", 50, 3, 2),
    ],
)
def test_pilots_and_their_cores_follow_the_sweep_file_and_the_cluster(tmp_path, monkeypatch, block, room, count, cpus):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SWEEP + "[ray]\n" + block)
    prepared = prepare("tiny.toml", "results")
    held = ray.fleet(prepared, pilots.wanted(prepared), room)
    assert (held.pilots, held.cpus) == (count, cpus)
    assert sorted(run.run_id for job in held.packs for run in job.runs) == sorted(prepared.plan.run_ids)


def test_plan_says_how_many_pilots_take_what(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP + '[ray]\npilots = 2\nmemory = "2G"\nresources = ["a100=2"]\n')
    said = " ".join(scalectl("plan", "tiny.toml", "--engine", "ray", cwd=tmp_path).stdout.split())
    assert (
        "on Ray: at most 2 pilots with 1 core, 2 GiB of memory, 2 a100 each, as many as the cluster has room for"
        in said
    )
    found = json.loads(scalectl("plan", "tiny.toml", "--engine", "ray", "--json", cwd=tmp_path).stdout)["ray"]
    assert (found["pilots"], found["memory"], found["resources"]) == (2, 2 << 30, {"a100": 2})
    assert json.loads(scalectl("plan", "tiny.toml", "--json", cwd=tmp_path).stdout)["ray"] is None


def test_a_machine_without_ray_says_so_and_starts_nothing(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP)
    (tmp_path / "none").mkdir()
    (tmp_path / "none/ray.py").write_text("raise ImportError\n")
    path = f"{tmp_path}/none:{os.environ.get('PYTHONPATH', '')}"
    none = scalectl("sweep", "tiny.toml", "--engine", "ray", cwd=tmp_path, code=2, PYTHONPATH=path, HOME=str(tmp_path))
    assert none.stderr.splitlines()[:2] == [
        "error: ray is not installed",
        "  --engine ray hands pilots to a Ray cluster",
    ]
    assert not (tmp_path / "results").exists()


def test_a_cluster_without_room_for_a_pilot_is_said_before_anything_is_written(fake, mine, tmp_path):
    prepared = mine("[ray]\ngpus = 1\n")
    with pytest.raises(UsageError, match="no node of the cluster has 1 GPU"):
        followed(prepared)
    assert fake.left
    assert not (tmp_path / "results").exists()


def test_pilots_share_the_runs_and_leave_no_record(fake, mine, tmp_path):
    prepared = mine()
    said, halted = followed(prepared)
    assert (said, halted) == (["2 pilots with 1 core each on Ray at 10.0.0.1:6379"], [])
    assert whole(tmp_path)
    assert [task.options["name"].partition(".")[0] for task in fake.tasks] == ["mine", "mine"]
    assert submissions(prepared.store, "mine", "ray") == []
    logs = [path.read_text() for path in sorted(tmp_path.glob("results/sweeps/mine/ray/*.log"))]
    assert sum(text.count("✔") for text in logs) == 4


@pytest.mark.slow
def test_a_pilot_that_dies_with_its_worker_or_its_node_is_started_again(fake, mine, tmp_path):
    prepared = mine("", ("pause = 0.01", "pause = 0.05"))

    def kill():
        in_flight(tmp_path, 2)
        fake.nodes_held = fake.nodes_held[:1]
        fake.kill(fake.tasks[0], NodeDiedError("gone"))
        wait_for(lambda: len(fake.tasks) == 3)
        fake.kill(fake.tasks[1])

    killer = threading.Thread(target=kill)
    killer.start()
    said, halted = followed(prepared)
    killer.join()
    assert halted == []
    assert sorted(said[1:]) == [
        "node 10.0.0.1 (b2b2b2) is gone",
        "pilot 0 lost its node; another takes its place",
        "pilot 1 died with its worker; another takes its place",
    ]
    assert whole(tmp_path)


def test_a_pilot_that_dies_again_and_again_without_progress_ends_the_sweep(fake, mine):
    prepared = mine("[ray]\npilots = 1\n")
    remote = fake.remote

    def dying(function):
        def options(**held):
            def start(*arguments):
                task = remote(function).options(**held).remote(*arguments)
                fake.kill(task)
                return task

            return type("Held", (), {"remote": staticmethod(start)})

        return type("Held", (), {"options": staticmethod(options)})

    fake.remote = dying
    said, halted = followed(prepared)
    assert said[1:] == [
        "pilot 0 died with its worker; another takes its place",
        "pilot 0 died with its worker 2 times in a row",
    ]
    assert halted == ["pilot 0 died with its worker 2 times in a row, and nothing was trained"]
    assert len(fake.tasks) == 2


def test_a_pilot_that_refuses_ends_the_sweep_with_its_last_words(fake, mine, tmp_path):
    prepared = mine("[ray]\npilots = 1\n")
    sweep = tmp_path / "results/sweeps/mine/sweep.toml"
    remote = fake.remote

    def other(function):  # the plan changes between its record and the start of the pilot
        sweep.write_text(sweep.read_text().replace("[1, 2, 3, 4]", "[1, 2, 3, 5]"))
        return remote(function)

    fake.remote = other
    _, halted = followed(prepared)
    assert len(halted) == 1
    assert halted[0].startswith("pilot 0 failed: ")
    assert halted[0].endswith(", and nothing was trained")
    assert len(fake.tasks) == 1


@pytest.mark.slow
def test_stopping_lets_the_pilots_checkpoint_and_the_same_command_goes_on(fake, mine, tmp_path):
    prepared = mine("", ("pause = 0.01", "pause = 0.1"))
    stopped = []

    def stopping():
        if len(list(tmp_path.glob("results/live/*/out/checkpoint.json"))) >= 2:
            stopped.append(1)
        return int(bool(stopped))

    _, halted = followed(prepared, stopping)
    assert halted == []
    assert sorted(found_states(prepared)) == sorted([State.PAUSED] * 2 + [State.PENDING] * 2)
    assert not scripts()
    assert submissions(prepared.store, "mine", "ray") == []
    followed(mine("", ("pause = 0.01", "pause = 0.1")))
    assert whole(tmp_path)


@pytest.mark.slow
def test_stopping_twice_ends_them_where_they_are(fake, mine, tmp_path):
    prepared = mine("", ("pause = 0.01", "pause = 0.1"))
    followed(prepared, lambda: 2 * (len(list(tmp_path.glob("results/live/*/out/checkpoint.json"))) >= 2))
    assert all(task.cancelled for task in fake.tasks)
    wait_for(lambda: not scripts())
    assert sorted(found_states(prepared)) == sorted([State.LOST] * 2 + [State.PENDING] * 2)


@pytest.mark.slow
def test_pilots_that_do_not_end_when_asked_are_ended_by_force(fake, mine, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "CHECKPOINT_SECONDS", 0.0)
    prepared = mine("", ("pause = 0.01", "pause = 0.1"))
    followed(prepared, lambda: len(list(tmp_path.glob("results/live/*/out/checkpoint.json"))) >= 2)
    assert all(task.cancelled for task in fake.tasks)


@pytest.mark.slow
def test_a_node_that_joins_gets_a_pilot(fake, mine, tmp_path):
    prepared = mine("", ("pause = 0.01", "pause = 0.05"))
    fake.nodes_held.pop()

    def join():
        in_flight(tmp_path)
        fake.nodes_held = [*fake.nodes_held, fake.node("c3" * 8, "10.0.0.3")]

    joiner = threading.Thread(target=join)
    joiner.start()
    said, halted = followed(prepared)
    joiner.join()
    assert (said[1:], halted) == (["node 10.0.0.3 (c3c3c3) has joined"], [])
    assert len(fake.tasks) == 2
    assert whole(tmp_path)


@pytest.mark.slow
def test_pilots_that_wait_for_room_when_all_is_done_do_not_begin(fake, mine, tmp_path):
    fake.slots = 1
    prepared = mine()
    followed(prepared)
    assert whole(tmp_path)
    assert [task.process is None for task in fake.tasks] == [False, True]


@pytest.mark.slow
def test_a_pilot_that_waits_to_take_the_place_of_another_when_all_is_done_does_not_begin(fake, mine, tmp_path):
    prepared = mine("", ("pause = 0.01", "pause = 0.05"))

    def kill():
        in_flight(tmp_path, 2)
        fake.slots = 1
        fake.kill(fake.tasks[1])

    killer = threading.Thread(target=kill)
    killer.start()
    followed(prepared)
    killer.join()
    assert whole(tmp_path)
    assert [task.process is None for task in fake.tasks] == [False, False, True]


def test_when_no_node_is_left_that_has_room_the_wait_is_said(fake, mine, tmp_path):
    prepared = mine()
    remote = fake.remote

    def remote_and_gone(function):  # its pilots go on, so that the sweep has an end
        fake.nodes_held = []
        return remote(function)

    fake.remote = remote_and_gone
    said, halted = followed(prepared)
    assert said[1:] == [
        "node 10.0.0.1 (a1a1a1) is gone",
        "node 10.0.0.1 (b2b2b2) is gone",
        "no node is left that has 1 core; the pilots wait for one",
    ]
    assert halted == []
    assert whole(tmp_path)


def test_a_cluster_that_loses_its_head_ends_the_sweep_and_the_same_command_goes_on(fake, mine, tmp_path, monkeypatch):
    prepared = mine("[ray]\npilots = 1\n", ("[1, 2, 3, 4]", "[1]"))
    remote = fake.remote

    def remote_and_gone(function):
        fake.answers = False
        return remote(function)

    fake.remote = remote_and_gone
    monkeypatch.setattr(client, "SILENT_SECONDS", 0.3)
    with pytest.raises(ScalectlError) as caught:
        followed(prepared)
    assert str(caught.value).splitlines() == [
        "the Ray cluster no longer answers: its head is gone",
        "Ray at 10.0.0.1:6379",
        "start it and repeat the command; the runs go on from their checkpoints",
    ]
    assert not fake.left  # Ray would wait for it
    assert submissions(prepared.store, "mine", "ray") == []
    fake.shutdown()
    fake.remote, fake.answers = remote, True
    prepared = prepare("mine.toml", "results")
    followed(prepared)
    assert found_states(prepared) == [State.DONE]


def test_runs_of_a_node_that_is_gone_are_waited_for(fake, mine):
    prepared = mine("[ray]\npilots = 1\n", ("[1, 2, 3, 4]", "[1]"))
    prepared.store.prepare()
    live(prepared.store, prepared.plan.run_ids[0]).claim(host="gone", now=time.time() - 118.0)  # for two seconds more
    prepared = prepare("mine.toml", "results")
    assert prepared.elsewhere == prepared.plan.run_ids
    said, halted = followed(prepared)
    assert (said, halted) == (["1 pilot with 1 core on Ray at 10.0.0.1:6379"], [])
    assert found_states(prepared) == [State.DONE]


@pytest.mark.slow
def test_stop_on_another_machine_reaches_the_pilots_through_the_store(fake, mine, tmp_path):
    prepared = mine("", ("pause = 0.01", "pause = 0.1"))

    def stop():  # as from a host that sees the orchestrator's file alone
        in_flight(tmp_path, 2)
        held = {path: json.loads(path.read_text()) for path in tmp_path.glob("results/sweeps/mine/keeper.*")}
        path = next(path for path, keeper in held.items() if keeper["pid"] == os.getpid())
        path.write_text(json.dumps({**held[path], "host": "far/1/2", "heartbeat": time.time()}))
        found.append(background.stop("mine", "results", str))

    found = []
    stopper = threading.Thread(target=stop)
    stopper.start()
    _, halted = followed(prepared)
    stopper.join()
    assert halted == ["the sweep was stopped from another machine"]
    assert found[0].processes == 3  # its pilots, which are here, and the one elsewhere
    assert found[0].counts == {State.PAUSED: 2, State.PENDING: 2}


def test_what_a_killed_orchestrator_left_is_cleared_away(fake, mine, tmp_path):
    prepared = mine("[ray]\npilots = 1\n", ("[1, 2, 3, 4]", "[1]"))
    prepared.store.prepare()
    (prepared.store.sweep_folder("mine")).mkdir(parents=True)
    old = Submission("mine", "0badcafe", 1, engine="ray")
    write_submission(prepared.store, old)
    log_of(prepared.store, old, 0).touch()
    followed(prepared)
    assert [path.name for path in tmp_path.glob("results/sweeps/mine/ray/0badcafe*")] == []


@pytest.mark.slow
def test_runs_that_failed_before_are_tried_once_when_asked(fake, mine, tmp_path):
    (tmp_path / "go.py").write_text("import os\nassert os.path.exists('go')\n" + ROW)
    changes = (("[1, 2, 3, 4]", "[1]"), ("plain.py", "go.py"))
    prepared = mine("[ray]\npilots = 1\n", *changes)
    followed(prepared)
    assert found_states(prepared) == [State.FAILED]
    followed(prepare("mine.toml", "results", retry_failed=True), retry=True)
    assert found_states(prepared) == [State.FAILED]
    (tmp_path / "go").touch()
    followed(prepare("mine.toml", "results", retry_failed=True), retry=True)
    assert found_states(prepared) == [State.DONE]

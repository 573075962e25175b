"""What a cluster is asked for, how it is joined and what its answers mean, with a module `ray` of our own."""

import json
import os
import signal
import socket
import stat
import sys

import pytest
from cluster import wait_for
from fake_ray import FakeRay, NodeDiedError, OutOfMemoryError

from scalectl.core.errors import UsageError
from scalectl.core.machine import memory_available, memory_total
from scalectl.executors import ray
from scalectl.executors.local import slots
from scalectl.executors.ray import Ended
from scalectl.sweep.ray import Ray


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own, and nothing in the environment that says where a cluster is."""
    for name in [name for name in os.environ if name.startswith(("RAY_", "XDG_CONFIG"))]:
        monkeypatch.delenv(name)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "x")  # so that what is set meanwhile is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def fake(monkeypatch):
    module = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", module)
    reachable = ray._reachable
    monkeypatch.setattr(ray, "_reachable", lambda address: address == "10.0.0.1:6379" or reachable(address))
    yield module
    module.shutdown()


def lines(caught):
    return str(caught.value).splitlines()


def test_our_own_token_is_made_once_and_is_this_users_alone(home):
    ray.authenticate()
    path = home / ".config/scalectl/ray-token"
    first = path.read_text()
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    assert len(first) == 64
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]) == ("token", str(path))
    ray.authenticate()
    assert path.read_text() == first
    assert [held.name for held in path.parent.iterdir()] == ["ray-token"]


def test_a_token_that_others_can_read_is_refused_and_one_that_is_not_there_is_not_made(home, tmp_path, monkeypatch):
    path = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        ray.authenticate()
    path.write_text("secret")
    path.chmod(0o640)
    with pytest.raises(UsageError) as caught:
        ray.authenticate()
    assert lines(caught) == ["the token of the cluster is not this user's alone", str(path), f"chmod 600 {path}"]
    path.chmod(0o600)
    ray.authenticate()
    assert not home.exists()


def test_a_cluster_without_tokens_is_the_users_choice(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray.authenticate()
    assert not home.exists()
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError) as caught:
        ray.connect(Ray(), 1)
    assert lines(caught) == [
        "ray is not installed",
        "--engine ray hands pilots to a Ray cluster",
        "pip install 'scalectl[ray]', in the version of the cluster, or train here with --engine local",
    ]


def test_a_cluster_that_does_not_answer_is_three_lines(fake, home):
    token = home / ".config/scalectl/ray-token"
    with socket.socket() as held:  # bound and silent: nobody else gets the port, and nobody listens
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(UsageError) as caught:
            ray.connect(Ray(address), 1)
    assert lines(caught) == [
        f"no Ray cluster answers at {address}: nobody listens there",
        f"--engine ray trains from a node of the cluster, with its token in {token}",
        f"on its first node: RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={token} ray start --head",
    ]
    assert fake.joined is None
    fake.refuses = ConnectionError("Could not find any running Ray instance.\nPlease specify the one to connect to.")
    with pytest.raises(UsageError) as caught:
        ray.connect(Ray(), 1)
    assert lines(caught)[0] == (
        "no Ray cluster answers on this machine: Could not find any running Ray instance. Please specify the one to "
        "connect to."
    )
    assert len(lines(caught)) == 3


def test_the_address_is_that_of_the_file_then_of_the_environment_and_no_cluster_is_started(fake, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        ray.connect(Ray(), 1)
        assert fake.joined["address"] == address
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        ray.connect(Ray(address), 1)
        assert fake.joined["address"] == address
    monkeypatch.delenv("RAY_ADDRESS")
    ray.connect(Ray(), 1)
    assert fake.joined["address"] == "auto"  # without an address Ray would start one
    assert fake.joined["log_to_driver"] is False


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "local", "10.0.0.1", "10.0.0.1:6379\n"])
def test_an_address_in_the_environment_that_is_none_of_a_head_is_refused(fake, monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError) as caught:
        ray.connect(Ray(), 1)
    assert lines(caught) == [
        f"{json.dumps(address)} is not the address of a cluster",
        "RAY_ADDRESS",
        'set it to "auto" or HOST:PORT of its head',
    ]
    assert fake.joined is None


def test_a_cluster_of_another_version_is_not_called_silent(fake):
    fake.refuses = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.55.0\n    Python: 3.12")
    with pytest.raises(UsageError) as caught:
        ray.connect(Ray(), 1)
    assert lines(caught) == [
        "the Ray cluster has another version: The cluster was started with: Ray: 2.55.0 Python: 3.12",
        "--engine ray joins it as one of its processes",
        "pip install 'ray==VERSION', that of the cluster, under its version of Python",
    ]


@pytest.mark.parametrize(
    ("asked", "cores", "room"),
    [
        (Ray(), 1, 6),
        (Ray(), 2, 3),
        (Ray(gpus=1), 1, 2),
        (Ray(gpus=1), 3, 1),
        (Ray(resources=("a100",)), 1, 2),
        (Ray(resources=("a100=2",)), 1, 1),
        (Ray(memory="1G"), 1, 2),
        (Ray(memory="2048"), 1, 1),
    ],
)
def test_the_room_of_a_cluster_is_counted_node_by_node(fake, asked, cores, room):
    fake.nodes_held = [
        fake.node("a", CPU=4.0, GPU=2.0, a100=2.0, memory=2.0**31),
        fake.node("b", CPU=2.0),
        fake.node("c", alive=False, CPU=64.0),
    ]
    assert ray.connect(asked, cores).room() == room


def test_what_no_node_has_is_named(fake):
    fake.nodes_held = [fake.node("a", CPU=4.0), fake.node("b", CPU=2.0, GPU=1.0)]
    for asked, cores, said in (
        (Ray(), 8, "8 cores"),
        (Ray(gpus=2, memory="4G"), 1, "2 GPUs and 4 GiB of memory"),
        (Ray(gpus=1), 3, "3 cores and 1 GPU"),  # each is somewhere, together they are nowhere
        (Ray(resources=("tpu=2",)), 1, "2 tpu"),
    ):
        with pytest.raises(UsageError) as caught:
            ray.connect(asked, cores).room()
        assert lines(caught) == [
            f"no node of the cluster has {said}",
            "Ray at 10.0.0.1:6379",
            "ask for less in [ray], or start a node that has it",
        ]


def until_ended(cluster):
    found = []
    wait_for(lambda: found.extend(cluster.ended()) or found)
    return found


def test_a_pilot_takes_the_resources_of_the_file_and_is_never_retried_behind_our_back(fake, tmp_path):
    asked = Ray(gpus=2, memory="3G", resources=("a100=2", "fast"))
    ray.connect(asked, 4).start(0, "tiny-0", ["--version"], [], tmp_path / "log")
    assert fake.tasks[0].options == {
        "num_cpus": 4,
        "num_gpus": 2,
        "memory": 3 << 30,
        "resources": {"a100": 2, "fast": 1},
        "max_retries": 0,
        "scheduling_strategy": "SPREAD",
        "name": "tiny-0",
    }
    assert all(isinstance(held, str | list | dict) for held in fake.tasks[0].arguments)


def test_a_pilot_is_told_what_it_was_given_and_nothing_of_the_cluster(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").touch(0o600)
    cluster = another(tmp_path, monkeypatch, PROBE, Ray(memory="1G"))
    assert until_ended(cluster) == [Ended(0, 0)]
    first, said = (tmp_path / "log").read_text().splitlines()
    assert first == f"started on {socket.gethostname()}"
    assert said.startswith("['SCALECTL_CPUS', 'SCALECTL_MEMORY', 'SCALECTL_PILOT'] ['pilot', 'x.json', '--parent', '")


PROBE = """\
import os, sys
seen = {name for name in os.environ if name.startswith(("RAY_", "SCALECTL_"))}
print(sorted(seen - {"SCALECTL_CACHE"}), sys.argv[1:])
"""
SLEEPER = """\
import os, time
parent = os.getppid()
print("up", flush=True)
while os.getppid() == parent:
    time.sleep(0.05)
"""


def another(tmp_path, monkeypatch, text, asked):
    """A cluster with one pilot, of a scalectl that is this text."""
    (tmp_path / "lab/scalectl").mkdir(parents=True)
    (tmp_path / "lab/scalectl/__init__.py").touch()
    (tmp_path / "lab/scalectl/cli.py").write_text(text)
    monkeypatch.chdir(tmp_path / "lab")
    cluster = ray.connect(asked, 1)
    cluster.start(0, "tiny-0", ["pilot", "x.json"], [], tmp_path / "log")
    return cluster


@pytest.fixture
def sleeper(fake, tmp_path, monkeypatch):
    """A cluster with one pilot that sleeps, under way."""
    cluster = another(tmp_path, monkeypatch, SLEEPER, Ray())
    wait_for(lambda: (tmp_path / "log").exists() and "up" in (tmp_path / "log").read_text())
    return cluster


def test_a_pilot_that_is_cancelled_gets_a_signal_and_its_end_is_waited_for(sleeper):
    sleeper.cancel({1})
    assert sleeper.ended() == []
    sleeper.cancel({0})
    assert until_ended(sleeper) == [Ended(0, -signal.SIGTERM)]
    assert sleeper.ended() == []


def test_a_pilot_that_waits_is_not_begun_once_it_is_cancelled(fake, sleeper, tmp_path):
    fake.slots = 1
    sleeper.start(1, "tiny-1", ["pilot"], [], tmp_path / "second")
    sleeper.cancel({1})
    assert until_ended(sleeper) == [Ended(1, cancelled=True)]
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (None, "died with its worker"),
        (NodeDiedError("gone"), "lost its node"),
        (OutOfMemoryError("killed"), "was killed, since its node ran out of memory"),
    ],
)
def test_how_a_worker_died_is_told(fake, sleeper, error, why):
    fake.kill(fake.tasks[0], error)
    assert until_ended(sleeper) == [Ended(0, why=why)]


def test_a_node_without_the_folder_of_the_sweep_says_so(fake, tmp_path):
    cluster = ray.connect(Ray(), 1)
    cluster.start(0, "tiny-0", ["--version"], [], tmp_path / "nowhere/log")
    assert until_ended(cluster) == [
        Ended(0, 1, f"No such file or directory: {tmp_path}/nowhere/log on {socket.gethostname()}", failed=True)
    ]


def test_in_a_pilot_the_slots_and_the_memory_are_those_it_was_given(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setenv("SCALECTL_CPUS", "2")
    assert [slot.cpu for slot in slots("cpu")] == [None, None]
    monkeypatch.setenv("SCALECTL_MEMORY", str(64 << 20))
    assert memory_total() == memory_available() == 64 << 20

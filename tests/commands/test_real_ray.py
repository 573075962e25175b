"""Twelve runs through a real Ray cluster of two nodes on this machine, undisturbed, and with what befalls workers."""

import signal

import pandas as pd
import psutil
import pytest
from cluster import wait_for
from lab import Lab, measured
from ray_cluster import MISSING, RayCluster
from support import trainers

from scalectl.store.layout import open_store
from scalectl.store.live import live

pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING, reason="needs ray (pip install 'scalectl[ray]')")]

BLOCK = """\
[runtime]
checkpoint_seconds = 0.5
"""


@pytest.fixture(scope="module")
def ray():
    made = RayCluster()
    try:
        made.start()
        yield made
    finally:
        made.stop()


class RayLab(Lab):
    def under_way(self):
        """Both pilots train, and there are checkpoints."""
        store = open_store(self.folder / "results")

        def found():
            claimed = {held.pid for run_id in store.in_flight() if (held := live(store, run_id).holder())}
            training = len(claimed & trainers(self.folder).keys()) == 2
            return training and any(self.folder.glob("results/live/*/checkpoint"))

        wait_for(found, 200)


@pytest.fixture
def lab(tmp_path, ray):
    lab = RayLab(tmp_path, "ray", BLOCK, ray.environment)
    yield lab
    lab.end()
    wait_for(lambda: not trainers(tmp_path))


def test_twelve_runs_through_a_real_cluster_finish_though_a_worker_is_killed(lab, ray, scalectl):
    lab.write(600)
    lab.sweep()
    lab.under_way()
    ray.workers("other")[0].kill()
    lab.hears("pilot . died with its worker; another takes its place")
    assert lab.started.wait(300) == 0, lab.said()
    assert "Finished: 12 done." in lab.said()
    assert measured(lab.folder).index.get_level_values("run_id").nunique() == 12
    again = scalectl("sweep", "tiny.toml", "--engine", "ray", cwd=lab.folder, RAY_ADDRESS="127.0.0.1:1")
    assert again.stdout == "Nothing to do: 12/12 done.  Next:  scalectl fit tiny\n"


def test_a_killed_worker_a_killed_node_and_a_killed_orchestrator_are_recovered(lab, ray, scalectl, tmp_path):
    lab.write(10_000)
    lab.sweep()
    lab.under_way()
    ray.workers("head")[0].kill()
    lab.hears("pilot . died with its worker; another takes its place")
    lab.under_way()
    lab.started.kill()  # the pilots end with it
    wait_for(lambda: not trainers(tmp_path))
    lab.started.wait()
    lab.sweep()
    lab.under_way()
    ray.kill_node("other")
    lab.hears("node [0-9.]+ \\([0-9a-f]{6}\\) is gone")
    lab.hears("pilot . lost its node; another takes its place")
    wait_for(lambda: len(trainers(tmp_path)) == 1)
    lab.started.send_signal(signal.SIGINT)
    assert lab.started.wait(60) == 130, lab.said()
    assert not trainers(tmp_path)
    lab.sweep()
    lab.hears("1 pilot with 1 core on Ray")
    ray.start_other()
    lab.hears("node [0-9.]+ \\([0-9a-f]{6}\\) has joined")
    lab.under_way()
    assert lab.started.wait(500) == 0, lab.said()
    assert "Finished: 12 done." in lab.said()
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    (quiet / "tiny.toml").write_text((lab.folder / "tiny.toml").read_text())
    scalectl("sweep", "tiny.toml", cwd=quiet)
    pd.testing.assert_series_equal(measured(lab.folder), measured(quiet), check_exact=True)


def test_stopping_once_and_stop_checkpoint_and_stopping_twice_ends_what_hangs(lab, ray, scalectl, tmp_path):
    lab.write(10_000)
    lab.sweep("--detach")
    assert lab.started.wait(120) == 0, lab.said()
    lab.under_way()
    stopped = scalectl("stop", "tiny", cwd=tmp_path, code=0)
    assert "paused" in stopped.stdout
    assert not trainers(tmp_path)
    lab.sweep()
    lab.under_way()
    hung = [process for name in ("head", "other") for process in ray.processes(name) if "pilot" in process.cmdline()]
    assert len(hung) == 2
    for process in hung:
        process.suspend()
    lab.started.send_signal(signal.SIGINT)
    lab.hears("Stopping: ")
    lab.started.send_signal(signal.SIGINT)
    assert lab.started.wait(60) == 130, lab.said()
    psutil.wait_procs(hung, 30)
    wait_for(lambda: not trainers(tmp_path))
    assert "lost" in lab.said()

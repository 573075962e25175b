"""Twelve runs through a real slurmctld and slurmd on loopback, undisturbed and with all that befalls jobs."""

import contextlib
import re
import signal
import subprocess
import sys

import pandas as pd
import pytest
from cluster import Cluster, missing, wait_for
from support import SWEEP, environment

pytestmark = pytest.mark.skipif(
    bool(missing()), reason=f"needs a Slurm to start (apt-get install slurm-wlm munge): no {', '.join(missing())}"
)

BLOCK = """\
[runtime]
checkpoint_seconds = 0.5
[slurm]
partition = "main"
time = "1:00:00"
jobs = 2
setup = ["export TWELVE=runs"]
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()
        assert not made.steps()


@pytest.fixture
def lab(tmp_path, slurm):
    """`lab(steps)` writes a sweep of twelve runs; `lab.sweep()` starts it on the cluster."""

    class Lab:
        folder = tmp_path
        started = None

        def write(self, steps):
            text = SWEEP.replace("steps = 30", f"steps = {steps}").replace("[0, 1]", "[0, 1, 2, 3]") + BLOCK
            (tmp_path / "tiny.toml").write_text(text.replace("every = 10", "every = 50"))

        def sweep(self, *more):
            with (tmp_path / "out").open("a") as log:
                self.started = subprocess.Popen(
                    [sys.executable, "-m", "scalectl.cli", "sweep", "tiny.toml", "--engine", "slurm", *more],
                    cwd=tmp_path, env=environment(**slurm.environment), stdout=log, stderr=log,
                )  # fmt: skip

        def said(self):
            return " ".join((tmp_path / "out").read_text().split())

        def hears(self, pattern, seconds=200):
            wait_for(lambda: re.search(pattern, self.said()) or self.started.poll() is not None, seconds)
            found = re.search(pattern, self.said())
            assert found, self.said()
            return found

        def checkpoints(self):
            return len(list(tmp_path.glob("results/live/*/checkpoint")))

        def jobs(self, state):
            asked = ("squeue", "--noheader", "--array", f"--states={state}", "--format=%i")
            return sorted(slurm.ask(*asked).split())

    lab = Lab()
    yield lab
    if lab.started is not None and lab.started.poll() is None:
        lab.started.kill()
        lab.started.wait()
    slurm.ask("scancel", "--user", "root")
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not slurm.ask("squeue", "-h").strip())


def measured(folder):
    """Every held-out loss, once."""
    frame = pd.read_parquet(folder / "results/runs")
    assert not frame.duplicated(["run_id", "step", "split", "metric"]).any()
    kept = frame[(frame["split"] == "held-out") & (frame["metric"] == "loss")]
    return kept.set_index(["run_id", "step"])["value"].sort_index()


def test_twelve_runs_through_a_real_slurm_finish_and_the_end_of_a_time_limit_is_survived(lab, slurm, scalectl):
    lab.write(1000)
    lab.sweep()
    wait_for(lambda: len(lab.jobs("RUNNING")) == 2 and lab.checkpoints() >= 2, 200)
    first = lab.jobs("RUNNING")[0]
    slurm.ask("scancel", "--batch", "--signal=USR1", first)  # as Slurm announces the end of the time limit
    lab.hears(f"job {first} is queued again")
    wait_for(
        lambda: slurm.ask("scontrol", "update", f"JobId={first}", "StartTime=now") == "" and not lab.jobs("PENDING")
    )
    assert lab.started.wait(900) == 0, lab.said()
    assert "Finished: 12 done." in lab.said()
    found = measured(lab.folder)
    assert found.index.get_level_values("run_id").nunique() == 12
    again = scalectl("sweep", "tiny.toml", "--engine", "slurm", cwd=lab.folder, PATH="/nowhere")
    assert again.stdout == "Nothing to do: 12/12 done.  Next:  scalectl fit tiny\n"


@pytest.mark.slow
def test_a_cancelled_job_and_a_dead_node_are_said_and_the_same_command_recovers(lab, slurm, scalectl, tmp_path):
    lab.write(2500)
    lab.sweep()
    wait_for(lambda: len(lab.jobs("RUNNING")) == 2 and lab.checkpoints() >= 2, 200)
    kept, cancelled = lab.jobs("RUNNING")
    slurm.ask("scancel", cancelled)
    wait_for(lambda: lab.jobs("CANCELLED") == [cancelled])
    slurm.kill_node()
    lab.hears(f"job {cancelled} was cancelled")
    assert "paused stopped at a checkpoint" in lab.said()
    lab.hears(f"job {kept} lost its node {slurm.host} \\(down\\*?\\) and is queued again")
    assert "lost process" in lab.said()
    lab.started.send_signal(signal.SIGINT)
    assert lab.started.wait(60) == 130
    assert lab.said().endswith("Next: scalectl status tiny scalectl stop tiny")
    slurm.start_node()
    lab.sweep()
    lab.hears("of an earlier command goes on")
    wait_for(lambda: slurm.ask("sinfo", "-h", "-o", "%T").strip() in ("idle", "mixed", "allocated"), 60)
    slurm.ask("scontrol", "update", f"JobId={kept}", "StartTime=now")  # Slurm gives the node two minutes else
    assert lab.started.wait(900) == 0, lab.said()
    assert "Finished: 12 done." in lab.said()
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    (quiet / "tiny.toml").write_text((lab.folder / "tiny.toml").read_text())
    scalectl("sweep", "tiny.toml", cwd=quiet)
    pd.testing.assert_series_equal(measured(lab.folder), measured(quiet), rtol=1e-4)

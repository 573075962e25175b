"""Twelve runs through a real slurmctld and slurmd on loopback, undisturbed and with all that befalls jobs."""

import contextlib
import signal

import pandas as pd
import pytest
from cluster import Cluster, missing, wait_for
from lab import Lab, measured

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


class SlurmLab(Lab):
    def checkpoints(self):
        return len(list(self.folder.glob("results/live/*/checkpoint")))


@pytest.fixture
def lab(tmp_path, slurm):
    lab = SlurmLab(tmp_path, "slurm", BLOCK, slurm.environment)
    yield lab
    lab.end()
    slurm.ask("scancel", "--user", "root")
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not slurm.ask("squeue", "-h").strip())


def test_twelve_runs_through_a_real_slurm_finish_and_the_end_of_a_time_limit_is_survived(lab, slurm, scalectl):
    lab.write(1000)
    lab.sweep()
    wait_for(lambda: len(slurm.jobs("RUNNING")) == 2 and lab.checkpoints() >= 2, 200)
    first = slurm.jobs("RUNNING")[0]
    slurm.ask("scancel", "--batch", "--signal=USR1", first)  # as Slurm announces the end of the time limit
    lab.hears(f"job {first} is queued again")
    wait_for(
        lambda: slurm.ask("scontrol", "update", f"JobId={first}", "StartTime=now") == "" and not slurm.jobs("PENDING")
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
    wait_for(lambda: len(slurm.jobs("RUNNING")) == 2 and lab.checkpoints() >= 2, 200)
    kept, cancelled = slurm.jobs("RUNNING")
    slurm.ask("scancel", cancelled)
    wait_for(lambda: slurm.jobs("CANCELLED") == [cancelled])
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

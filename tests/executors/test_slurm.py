"""Batch scripts as they are written and as bash runs them; what Slurm says, read from commands of our own on PATH."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from scalectl.core.errors import StoreError, UsageError
from scalectl.core.machine import memory_available, memory_total
from scalectl.executors import slurm
from scalectl.executors.local import slots
from scalectl.executors.slurm import GONE, SlurmError, Task
from scalectl.executors.submission import Submission, clear, folder_of, forget, read_submission, record_of, submissions
from scalectl.store.layout import Store, open_store
from scalectl.sweep.slurm import Slurm

PILOTS = Submission("ladder", "0badcafe", 3)


@pytest.fixture
def store(tmp_path):
    found = open_store(tmp_path / "results")
    found.prepare()
    return found


SETUPS = [(), ("set -e",), ("set -euo pipefail", "export A=1")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """`place(name, text)` puts a command on PATH; there is no Slurm beside these, and each notes how it was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "cat", "sleep", "kill", "env", "true"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))

    def write(name, text):
        (folder / name).write_text(f'#!{shutil.which("bash")}\necho "{name} $*" >> {tmp_path}/calls\n{text}\n')
        (folder / name).chmod(0o755)

    return write


def calls(tmp_path):
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


def script(slurm_block, submission=PILOTS, root="/lab/results", **more):
    held = {"cpus": 4, "search": (), "python": "/lab/venv/bin/python", "cwd": "/lab"} | more
    return slurm.batch_script(Store(Path(root)), submission, slurm_block, **held)


def test_the_script_of_pilots_is_the_golden_one(golden):
    golden("pilots.sh", script(Slurm(account="physics", partition="cpu", time="4:00:00", memory="16G")))


def test_the_script_of_an_array_in_a_container_is_the_golden_one(golden):
    block = Slurm(
        partition="gpu,preempt",
        qos="long",
        gres="gpu:a100:2",
        time="2-0",
        setup=("module load cuda", "export WANDB_MODE=offline"),
        container="/lab/images/torch 2.sif",
        signal="TERM@300",
        pilot=False,
    )
    held = Submission("big", "00c0ffee", 2, shares=(("a", "b"), ("c",)))
    golden(
        "array.sh", script(block, held, "/lab/50% of all/results", cpus=None, search=("/lab/my models",), cwd="/lab x")
    )


@pytest.mark.parametrize(
    ("state", "code", "again"), [("RUNNING", 10, True), ("COMPLETING", 10, False), ("RUNNING", 0, False)]
)
@pytest.mark.parametrize("setup", SETUPS)
def test_a_job_queues_itself_again_if_it_leaves_work_and_is_not_being_ended(tmp_path, place, state, code, again, setup):
    place("squeue", f"echo {state}")
    place("scontrol", "")
    place("python", f"exit {code}")
    (tmp_path / "a.sh").write_text(script(Slurm(setup=setup), python=str(tmp_path / "bin/python")))
    done = subprocess.run(["bash", tmp_path / "a.sh"], env={**os.environ, "SLURM_JOB_ID": "7"}, check=False)
    assert ("scontrol requeue 7" in calls(tmp_path)) == again
    assert done.returncode == (0 if again else code)


@pytest.mark.parametrize("setup", SETUPS)
def test_the_signal_before_the_end_reaches_the_pilot_which_is_waited_for(tmp_path, place, setup):
    place("squeue", "echo RUNNING")
    place("scontrol", "")
    place("python", f"trap 'sleep 0.5; echo stopped >> {tmp_path}/calls; exit 10' TERM\necho up\nsleep 60 & wait $!")
    (tmp_path / "a.sh").write_text(script(Slurm(setup=setup), python=str(tmp_path / "bin/python")))
    job = subprocess.Popen(
        ["bash", tmp_path / "a.sh"], env={**os.environ, "SLURM_JOB_ID": "7"}, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    with job.stdout as pipe:
        assert pipe.readline() == "up\n"
        time.sleep(0.3)  # from the first line of the pilot to the trap of its shell
        job.send_signal(signal.SIGUSR1)
        assert job.wait(30) == 0
    os.killpg(job.pid, signal.SIGKILL)  # the sleep of the pilot
    assert calls(tmp_path)[1:] == ["stopped", "squeue --noheader --jobs=7 --format=%T", "scontrol requeue 7"]


def test_a_submission_is_written_before_sbatch_and_read_back(store, tmp_path, place):
    place("sbatch", f"cat {store.root}/sweeps/ladder/slurm/0badcafe.json > {tmp_path}/seen; echo '77;alpha'")
    held = slurm.submit(store, PILOTS, Slurm(), cpus=1, search=(), python="python", cwd=str(tmp_path))
    assert held.job == "77"
    assert json.loads((tmp_path / "seen").read_text())["tasks"] == 3
    assert submissions(store, "ladder", "slurm") == [held]
    assert read_submission(record_of(store, held)) == (store, held)
    forget(store, held)
    assert submissions(store, "ladder", "slurm") == []
    clear(store, "ladder", "slurm")
    assert list(folder_of(store, "ladder", "slurm").iterdir()) == []


def test_without_slurm_the_error_says_where_it_is(store, tmp_path, place):
    with pytest.raises(UsageError) as caught:
        slurm.submit(store, PILOTS, Slurm(), cpus=1, search=(), python="python", cwd=str(tmp_path))
    assert str(caught.value).splitlines() == [
        "sbatch is not on PATH",
        "--engine slurm hands jobs to a Slurm cluster",
        "run it on a login node of the cluster, or train here with --engine local",
    ]
    assert submissions(store, "ladder", "slurm") == []


def test_what_sbatch_says_against_a_job_is_the_error(store, tmp_path, place):
    place("sbatch", "echo 'sbatch: error: invalid partition specified: gpux' >&2; exit 1")
    with pytest.raises(UsageError, match=r"^sbatch refused the job: invalid partition specified: gpux\n"):
        slurm.submit(store, PILOTS, Slurm(), cpus=1, search=(), python="python", cwd=str(tmp_path))
    assert submissions(store, "ladder", "slurm") == []


@pytest.mark.parametrize("text", ["", "[1]", '{"sweep": "ladder"}', '{"sweep": "../x", "token": "0badcafe"}'])
def test_a_record_that_is_none_is_refused(store, text):
    path = record_of(store, PILOTS)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(StoreError, match="not the record of a cluster's job"):
        read_submission(path)


HELD = Submission("ladder", "0badcafe", 3, job="77")
QUEUE = "ladder.0badcafe|77_0|RUNNING|None|node3\nladder.0badcafe|77_1|PENDING|Resources|\nother|5|RUNNING|None|node1"


def test_jobs_are_known_from_the_queue_and_a_forgotten_one_is_gone_where_nobody_keeps_accounts(place):
    place("squeue", f"cat <<'X'\n{QUEUE}\nX")
    place("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert slurm.look([HELD]) == {
        HELD: [Task("77_0", "RUNNING", "", "node3"), Task("77_1", "PENDING", "Resources", ""), Task("77_2", GONE)]
    }


def test_a_forgotten_job_is_known_from_the_accounts(place):
    place("squeue", f"cat <<'X'\n{QUEUE}\nX")
    place("sacct", "echo '77_0|RUNNING|node3'; echo '77_2|CANCELLED by 1000|node3'")
    assert slurm.look([HELD])[HELD][2] == Task("77_2", "CANCELLED", "", "node3")


def test_a_controller_that_does_not_answer_says_nothing_about_jobs(place):
    place("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1")
    with pytest.raises(SlurmError, match="Unable to contact"):
        slurm.look([HELD])


def test_in_a_job_the_slots_and_the_memory_are_those_of_the_job(monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", str(len(cores)))
    assert [slot.cpu for slot in slots("cpu")] == cores
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")  # of four that nobody pins: which two are the job's is not known
    assert [slot.cpu for slot in slots("cpu")] == [None, None]
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "64")
    assert memory_total() == memory_available() == 64 << 20

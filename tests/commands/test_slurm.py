"""Sweeps on a cluster: how many jobs, following them to their end whatever that is, and what one of them does."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from support import SWEEP, one_run, trainers, wait_until

from scalectl.commands import background, pilots, slurm
from scalectl.commands.pilots import Said
from scalectl.commands.sweep import execute, prepare, record_plan
from scalectl.core.job import State
from scalectl.executors.drive import Halted
from scalectl.executors.submission import Submission, log_of, submissions, write_submission
from scalectl.store.layout import open_store
from scalectl.store.live import live, states

BLOCK = '[slurm]\npartition = "main"\ntime = "10"\n'


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """`tiny(block, changes)` prepares the six runs of the tiny sweep in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def prepared(block=BLOCK, *changes):
        text = SWEEP + block
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        (tmp_path / "tiny.toml").write_text(text)
        return prepare("tiny.toml", "results")

    return prepared


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A Slurm that trains nothing: `cluster(...)` sets what squeue answers in turn, the last of it for good."""
    folder = tmp_path / "bin"
    folder.mkdir()
    bash = shutil.which("bash")
    (tmp_path / "answers").mkdir()
    scripts = {
        "sbatch": "echo 77",
        "scancel": "",
        "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
        "sinfo": "echo idle",
        "squeue": f"""\
name=$(echo "$*" | sed 's/.*--name=\\([^ ,]*\\).*/\\1/')
cd {tmp_path}/answers; first=$(ls | head -1); [ -z "$first" ] && exit 0
text=$(sed "s/NAME/$name/" "$first"); [ "$(ls | wc -l)" = 1 ] || rm "$first"
case $text in *error*) echo "slurm_load_jobs error: no contact" >&2; exit 1;; esac
echo "$text"
exit 0""",
    }
    for name, text in scripts.items():
        (folder / name).write_text(f'#!{bash}\necho "{name} $*" >> {tmp_path}/calls\n{text}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(pilots, "STORE_SECONDS", 0.01)
    monkeypatch.setattr(slurm, "QUEUE_SECONDS", (0.0, 0.02))

    def answers(*texts):
        for index, text in enumerate(texts):
            (tmp_path / "answers" / f"{index:02}").write_text("".join(f"NAME|{line}\n" for line in text))

    return answers


def called(tmp_path, name):
    path = tmp_path / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if line.startswith(f"{name} ")]


def fleet(prepared):
    return slurm.fleet(prepared, pilots.wanted(prepared))


def following(prepared):
    held = fleet(prepared)
    return pilots.following(prepared, held.tasks * held.slots)


def followed(prepared, stopping=lambda: 0, **more):
    events = list(slurm.watch(following(prepared), stopping, **more))
    said = [event.text.strip() for event in events if isinstance(event, Said)]
    return said, [event for event in events if isinstance(event, Halted)]


def test_a_thousand_short_runs_are_a_handful_of_pilots_and_every_run_is_in_one_pack(tiny):
    prepared = tiny(BLOCK.replace('"10"', '"1:00:00"'), ("[0, 1]", str([*range(400)])))
    slow = [job.seconds for job in prepared.jobs]
    work = sum(slow)
    held = fleet(prepared)
    assert sorted(run.run_id for job in held.packs for run in job.runs) == sorted(prepared.plan.run_ids)
    assert held.tasks == max(1, -int(-work // (3600 - 120 - 30)))
    assert len(prepared.plan) == 1200


@pytest.mark.parametrize(
    ("block", "tasks", "cpus", "known"),
    [
        (BLOCK, 1, 1, True),
        (BLOCK + "jobs = 3\n", 3, 1, True),
        (BLOCK + "jobs = 500\n", 6, 1, True),
        (BLOCK + "jobs = 3\nmax_array = 2\n", 2, 1, True),
        (BLOCK + "jobs = 2\ncpus = 2\n", 2, 2, True),
        ("[slurm]\n", 1, 1, True),
        (BLOCK + 'gres = "gpu:2"\n', 1, None, False),
        (BLOCK + 'gres = "gpu:2"\ncpus = 8\n', 1, 8, False),
        (BLOCK + "[runtime]\nslots = 2\n", 1, 2, True),
    ],
)
def test_the_number_of_pilots_and_their_cores_follow_the_sweep_file(tiny, block, tasks, cpus, known):
    held = fleet(tiny(block))
    assert (held.tasks, held.cpus, held.seconds is not None, held.shares) == (tasks, cpus, known, ())


def test_without_pilots_every_run_is_in_one_share_and_there_are_no_more_jobs_than_allowed(tiny):
    for most, tasks in ((100, 6), (4, 4)):
        prepared = tiny(BLOCK + f"pilot = false\nmax_array = {most}\n")
        held = fleet(prepared)
        shared = [run.run_id for share in held.shares for job in share for run in job.runs]
        assert held.tasks == len(held.shares) == tasks
        assert sorted(shared) == sorted(prepared.plan.run_ids)


def test_plan_says_how_many_jobs_of_what_time(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP + BLOCK + "jobs = 2\n")
    said = " ".join(scalectl("plan", "tiny.toml", "--engine", "slurm", cwd=tmp_path).stdout.split())
    assert "on Slurm: 2 pilot jobs of 10:00 with 1 core each on main, done about 0:3" in said
    found = json.loads(scalectl("plan", "tiny.toml", "--engine", "slurm", "--json", cwd=tmp_path).stdout)["slurm"]
    assert (found["jobs"], found["pilot"], found["walltime_seconds"], found["partition"]) == (2, True, 600, "main")
    assert json.loads(scalectl("plan", "tiny.toml", "--json", cwd=tmp_path).stdout)["slurm"] is None


def test_an_engine_that_is_not_known_and_a_machine_without_slurm_are_said(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP + BLOCK)
    wrong = scalectl("sweep", "tiny.toml", "--engine", "slrm", cwd=tmp_path, code=2)
    assert "--engine 'slrm' is not known; use local, slurm or ray" in wrong.stderr
    none = scalectl("sweep", "tiny.toml", "--engine", "slurm", cwd=tmp_path, code=2, PATH="/nowhere")
    assert none.stderr.splitlines() == [
        "error: sbatch is not on PATH",
        "  --engine slurm hands jobs to a Slurm cluster",
        "  run it on a login node of the cluster, or train here with --engine local",
    ]


def test_jobs_that_vanish_without_an_account_do_not_hang_the_sweep(tiny, cluster, tmp_path):
    cluster([])
    _, halted = followed(tiny(BLOCK + "[on_error]\nretries = 1\n"))
    assert [event.why for event in halted] == [
        "job 77_0 is gone, and Slurm kept no account of how, and nothing was trained"
    ]
    assert len(called(tmp_path, "sbatch")) == 2


def test_a_cancelled_job_is_said_and_not_submitted_again_until_asked(tiny, cluster, tmp_path):
    cluster(["77_0|RUNNING|None|n1"], ["77_0|CANCELLED|None|n1"])
    prepared = tiny()
    said, halted = followed(prepared)
    assert [event.why for event in halted] == ["job 77_0 was cancelled"]
    assert said[1:] == ["job 77_0 runs on n1", "job 77_0 was cancelled"]
    followed(prepared)
    assert len(called(tmp_path, "sbatch")) == 2


def test_a_job_that_fails_at_its_start_ends_the_sweep_with_its_last_words(tiny, cluster, tmp_path):
    prepared = tiny()
    cluster(["77_0|RUNNING|None|n1"], ["77_0|FAILED|NonZeroExitCode|n1"])
    events = slurm.watch(following(prepared), lambda: 0)
    next(events)
    held = submissions(prepared.store, "tiny", "slurm")[0]
    log_of(prepared.store, held, 0).write_text("module: not found\npython: No module named torch\n\n")
    halted = [event.why for event in events if isinstance(event, Halted)]
    assert halted == ["job 77_0 failed: python: No module named torch, and nothing was trained"]
    assert len(called(tmp_path, "sbatch")) == 1


def test_a_silent_controller_is_said_once_and_jobs_are_not_given_up(tiny, cluster, tmp_path):
    cluster(["77_0|RUNNING|None|n1"], ["error"], ["error"], ["77_0|RUNNING|None|n1"], ["77_0|CANCELLED|None|n1"])
    said, _ = followed(tiny())
    silent = "Slurm does not answer (no contact); the store still tells what is trained"
    assert said[2:4] == [silent, "Slurm answers again"]
    assert len(called(tmp_path, "sbatch")) == 1


def test_leaving_leaves_the_jobs_and_the_same_command_follows_them(tiny, cluster, tmp_path):
    cluster(["77_0|PENDING|Priority|"])
    prepared = tiny()
    said, halted = followed(prepared, lambda: 1)
    assert not halted
    said, _ = followed(prepared, lambda: 1)
    assert said[0] == "job 77_0 of an earlier command goes on"
    assert len(called(tmp_path, "sbatch")) == 1
    assert not called(tmp_path, "scancel")


def test_stop_cancels_the_jobs_and_waits_for_their_end(tiny, cluster, tmp_path):
    running, ended = ["77_0|RUNNING|None|n1"], ["77_0|CANCELLED|None|n1"]
    cluster(running, running, running, running, ended)
    followed(tiny(), lambda: 1)
    assert background.stop("tiny", "results", str).processes == 1
    assert called(tmp_path, "scancel") == ["scancel 77_0"]
    assert len(os.listdir(tmp_path / "answers")) == 1


def test_stop_ends_what_trains_here_where_slurm_does_not_answer_and_says_so(cluster, scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(one_run(100_000))
    scalectl("sweep", "tiny.toml", "--detach", cwd=tmp_path)
    try:
        wait_until(lambda: list(tmp_path.glob("results/live/*/rows.jsonl")))
        write_submission(open_store(tmp_path / "results"), Submission("tiny", "abc", 1, job="77"))
        cluster(["error"])
        error = scalectl("stop", cwd=tmp_path, code=1).stderr
        assert "Slurm does not answer" in error
        assert "Ended here: 1 of its processes; jobs of its cluster may go on" in error
        assert not trainers(tmp_path)
    finally:
        cluster([])
        scalectl("stop", cwd=tmp_path)


def test_jobs_that_wait_when_all_is_done_are_taken_back(tiny, cluster, tmp_path):
    cluster(["77_0|PENDING|Priority|"])
    prepared = tiny()
    trained = []

    def stopping():
        if not trained:
            trained.append(list(execute(prepare("tiny.toml", "results"), lambda: 0)))
        return 0

    _, halted = followed(prepared, stopping)
    assert not halted
    assert called(tmp_path, "scancel") == ["scancel 77_0"]
    assert submissions(prepared.store, "tiny", "slurm") == []


def test_a_node_that_goes_down_under_a_job_is_named(tiny, cluster, tmp_path):
    (tmp_path / "bin/sinfo").write_text(f"#!{shutil.which('bash')}\necho 'down*'\n")
    cluster(["77_0|RUNNING|None|n1"], ["77_0|PENDING|BeginTime|"], ["77_0|CANCELLED|None|"])
    said, _ = followed(tiny())
    assert said[2] == "job 77_0 lost its node n1 (down*) and is queued again (BeginTime)"


def submitted(prepared, **more):
    prepared.store.prepare()
    record_plan(prepared)
    return str(write_submission(prepared.store, Submission("tiny", "0badcafe", 2, "77", **more)))


def test_pilots_begin_with_different_packs_and_know_all(tiny, monkeypatch):
    prepared = tiny()
    record = submitted(prepared)
    firsts = []
    for index in range(2):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        jobs = pilots.duty(record, str).jobs
        assert sorted(run.run_id for job in jobs for run in job.runs) == sorted(prepared.plan.run_ids)
        firsts.append(jobs[0].ticket)
    assert len(set(firsts)) == 2


def test_a_job_of_an_array_trains_its_share_alone(tiny, monkeypatch):
    prepared = tiny()
    ids = prepared.plan.run_ids
    record = submitted(prepared, shares=(ids[:1], ids[1:]))
    for index, share in enumerate((ids[:1], ids[1:])):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        found = pilots.duty(record, str)
        assert {run.run_id for job in found.jobs for run in job.runs} == set(share)


def test_a_job_whose_plan_is_not_the_stored_one_refuses(tiny):
    record = submitted(tiny())
    sweep = Path("results/sweeps/tiny/sweep.toml")
    sweep.write_text(sweep.read_text().replace("[8, 16, 32]", "[8, 16, 24]"))
    with pytest.raises(Exception, match="asks for other runs here"):
        pilots.duty(record, str)


def test_runs_of_a_machine_that_shows_no_life_are_waited_for_and_those_of_a_living_one_are_not(tiny, monkeypatch):
    monkeypatch.setattr(pilots, "STORE_SECONDS", 0.05)
    prepared = tiny()
    record = submitted(prepared)
    run_id = prepared.plan.run_ids[0]
    folder = live(prepared.store, run_id)
    folder.claim(host="elsewhere", now=time.time() - 119.0)  # its lease ends in a second
    found = pilots.duty(record, str)
    assert found.elsewhere == (run_id,)
    assert pilots.freed(found, lambda: 0)
    claim = folder.claim(host="another")
    found = pilots.duty(record, str)
    asked = []

    def stopping():
        asked.append(claim.beat(time.time() + 1) if not asked else None)
        return 0

    assert not pilots.freed(found, stopping)
    assert states(prepared.store, [run_id])[run_id].state is State.RUNNING


SCRIPT = """\
name = "mine"
[run]
command = ["python", "train.py", "--width", "{width}"]
[params]
width = { grid = [1, 2, 3, 4] }
"""


def test_runs_of_a_script_whose_time_nobody_knows_are_one_pilot_or_a_share_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    for block, tasks in ((BLOCK, 1), (BLOCK + "pilot = false\n", 4)):
        (tmp_path / "mine.toml").write_text(SCRIPT + block)
        prepared = prepare("mine.toml", "results")
        held = fleet(prepared)
        assert (held.tasks, held.seconds) == (tasks, None)
        assert sorted(run.run_id for job in held.packs for run in job.runs) == sorted(prepared.plan.run_ids)
    prepared.store.prepare()
    record_plan(prepared)
    path = write_submission(prepared.store, Submission("mine", "0badcafe", 1))
    assert len(pilots.duty(str(path), str).jobs) == 4

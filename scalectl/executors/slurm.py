"""Slurm: batch scripts in, states of jobs out.

sweeps/NAME/slurm/TOKEN.sh   the batch script: one array, also of a single job
"""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from scalectl.core.errors import UsageError
from scalectl.executors.submission import AGAIN, Submission, record_of, write_submission
from scalectl.store.files import atomic_write
from scalectl.store.layout import Store
from scalectl.sweep.slurm import Slurm

ANSWER_SECONDS = 60.0  # for a command of Slurm; ours: its controller may be restarting
# States of a job that has ended for good. Source: squeue(1), JOB STATE CODES.
ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
     "TIMEOUT", "GONE")
)  # fmt: skip
GONE = "GONE"  # ours, of a job that Slurm no longer knows and did not keep accounts of


@dataclass(frozen=True)
class Task:
    """One job of an array as Slurm sees it. reason: why it waits, or how it ended; node: where it runs."""

    id: str
    state: str
    reason: str = ""
    node: str = ""

    @property
    def ended(self) -> bool:
        """Whether it will not run again."""
        return self.state in ENDED

    @property
    def index(self) -> int:
        """Its place in the array."""
        return int(self.id.partition("_")[2] or 0)


def batch_script(
    store: Store,
    submission: Submission,
    slurm: Slurm,
    *,
    cpus: int | None,
    search: Sequence[str],
    python: str,
    cwd: str,
) -> str:
    """The batch script of a submission.

    The signal before the time limit reaches the shell alone (`B:`), which passes it on as SIGTERM, as it does with the
    SIGTERM of preemption and of scancel: the runs are checkpointed. A job that leaves work (exit code 10) puts itself
    back into the queue, unless Slurm is ending it: then it is cancelled, or Slurm itself requeues it.

    Args: cpus: of a job, None for what the cluster gives; search: folders of the user's own models; python: that runs
    scalectl, unless there is a container; cwd: where relative paths of the sweep begin.
    """
    record = record_of(store, submission)
    log = str(record.with_suffix("")).replace("%", "%%") + "-%a.log"
    options: dict[str, str | int | None] = {
        "job-name": submission.name,
        "array": f"0-{submission.tasks - 1}",
        "output": log,
        "open-mode": "append",
        "chdir": cwd,
        "account": slurm.account,
        "partition": slurm.partition,
        "qos": slurm.qos,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": cpus,
        "mem": slurm.memory,
        "gres": slurm.gres,
        "time": slurm.time,
        "signal": f"B:{slurm.signal}",
    }
    lines = [f"#SBATCH --{name}={shlex.quote(str(held))}" for name, held in options.items() if held is not None]
    command = [python, "-m", "scalectl.cli", "pilot", str(record)]
    if slurm.container is not None:
        bound = [f"--bind={path}" for path in (str(store.root), cwd)]
        gpu = ["--nv"] if slurm.gpus else []
        command = ["apptainer", "exec", *gpu, *bound, f"--pwd={cwd}", slurm.container, "python3", *command[1:]]
    paths = [f"export PYTHONPATH={shlex.quote(':'.join(search))}${{PYTHONPATH:+:$PYTHONPATH}}"] if search else []
    # What setup may have set goes: the end of a wait by a signal is no error.
    setup = [*slurm.setup, "set +eu +o pipefail"] if slurm.setup else []
    forwarded = dict.fromkeys((slurm.signal.partition("@")[0], "TERM"))
    text = [
        "#!/bin/bash",
        f"# Trains the sweep {submission.sweep}; written by scalectl, which reads {record.name} beside this file.",
        *lines,
        "#SBATCH --requeue",
        "",
        *setup,
        *paths,
        f"{shlex.join(command)} &",
        "pilot=$!",
        f"trap 'kill -TERM $pilot' {' '.join(forwarded)}",
        "while kill -0 $pilot 2>/dev/null; do wait $pilot; done  # a signal ends the wait, not the pilot",
        "wait $pilot",
        "code=$?",
        "state=$(squeue --noheader --jobs=$SLURM_JOB_ID --format=%T)",
        f'if [ $code = {AGAIN} ] && [ "$state" = RUNNING ]; then',
        "  exec scontrol requeue $SLURM_JOB_ID  # its time is up, and there is work left",
        "fi",
        "exit $code",
    ]
    return "\n".join(text) + "\n"


def submit(
    store: Store,
    submission: Submission,
    slurm: Slurm,
    *,
    cpus: int | None,
    search: Sequence[str],
    python: str,
    cwd: str,
) -> Submission:
    """Write the script and its record, and hand them to Slurm. Returns: the submission with its id.

    Raises: UsageError if there is no sbatch or it refuses, in its own words; StoreError or BudgetRefused if the files
    cannot be written.
    """
    record = record_of(store, submission)
    text = batch_script(store, submission, slurm, cpus=cpus, search=search, python=python, cwd=cwd)
    write_submission(store, submission)  # before sbatch: the job may start before this process goes on
    script = record.with_suffix(".sh")
    atomic_write(script, text.encode())
    try:
        said = _slurm("sbatch", "--parsable", str(script))
    except (SlurmError, UsageError) as error:
        record.unlink(missing_ok=True)
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"sbatch refused the job: {error.what}",
            where=str(script),
            remedy="correct [slurm] in the sweep file; sinfo lists the partitions",
        ) from None
    submitted = replace(submission, job=said.strip().partition(";")[0])
    write_submission(store, submitted)
    return submitted


class SlurmError(Exception):
    """A command of Slurm failed. what: its last words."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def _slurm(*command: str) -> str:
    """What a command of Slurm answers.

    Raises: UsageError where it is not installed; SlurmError if it fails.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except FileNotFoundError:
        raise UsageError(
            f"{command[0]} is not on PATH",
            where="--engine slurm hands jobs to a Slurm cluster",
            remedy="run it on a login node of the cluster, or train here with --engine local",
        ) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} gave no answer in {ANSWER_SECONDS:g} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        what = next((line for line in said if "error:" in line), said[-1] if said else f"exit {done.returncode}")
        raise SlurmError(re.sub(r"^(?:\w+: )?(?:\w+ )?error: ", "", what.strip()))
    return done.stdout


def look(held: Iterable[Submission]) -> dict[Submission, list[Task]]:
    """How the jobs of submissions stand.

    Returns: jobs that Slurm knows, those that ended within its MinJobAge included; of others what accounting kept, and
    `GONE` where there is none.
    Raises: SlurmError if Slurm does not answer, which says nothing about its jobs.
    """
    asked = list(held)
    if not asked:
        return {}
    names = ",".join(submission.name for submission in asked)
    said = _slurm("squeue", "--noheader", "--array", "--states=all", f"--name={names}", "--format=%j|%i|%T|%r|%N")
    found: dict[Submission, dict[int, Task]] = {submission: {} for submission in asked}
    for name, *rest in (line.split("|") for line in said.splitlines() if line.count("|") == 4):
        submission = next((submission for submission in asked if submission.name == name.strip()), None)
        if submission is not None:
            task = Task(*(part.strip() for part in rest))
            reason = "" if task.reason == "None" else task.reason
            found[submission][task.index] = Task(task.id, task.state, reason, task.node)
    return {
        submission: [tasks.get(index, kept) for index, kept in _missing(submission, tasks)]
        for submission, tasks in found.items()
    }


def _missing(submission: Submission, known: dict[int, Task]) -> list[tuple[int, Task]]:
    """Every job of an array, those that the queue has forgotten as accounting knows them."""
    blank = [Task(f"{submission.job or submission.name}_{index}", GONE) for index in range(submission.tasks)]
    if len(known) < submission.tasks and submission.job:
        with contextlib.suppress(SlurmError, UsageError):  # no accounting: what it held is nobody's, says the heartbeat
            said = _slurm(
                "sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={submission.job}",
                "--format=JobID,State,NodeList",
            )  # fmt: skip
            for name, state, node in (line.split("|") for line in said.splitlines() if line.count("|") == 2):
                index = name.partition("_")[2]
                if index.isdecimal() and int(index) < submission.tasks and state.split():
                    blank[int(index)] = Task(name, state.split()[0], "", node)
    return list(enumerate(blank))


def node_state(node: str) -> str:
    """How Slurm calls the state of a node that is not well, such as down*; "" of one that is, or is not known."""
    try:
        state = _slurm("sinfo", "--noheader", f"--nodes={node}", "--format=%T").strip().partition("\n")[0]
    except (SlurmError, UsageError):
        return ""
    return state if state.startswith(("down", "drain", "fail", "unknown")) or state.endswith("*") else ""


def cancel(tasks: Iterable[Task]) -> None:
    """Cancel jobs: SIGTERM, so that they checkpoint, then SIGKILL after the cluster's KillWait.

    Raises: SlurmError if Slurm does not take it.
    """
    ids = [task.id for task in tasks]
    if ids:
        _slurm("scancel", *ids)

"""What a sweep file says of a cluster ([slurm]), and what its values may look like."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}"
_TIME = r"(?:(?P<days>\d{1,4})-)?(?P<first>\d{1,6})(?::(?P<second>\d{1,2}))?(?::(?P<third>\d{1,2}))?"
_SIGNAL = r"(?P<name>USR1|USR2|TERM|INT|HUP|CONT|URG|WINCH)@(?P<seconds>\d{1,5})"

# A key: what its value has to match, and what that is, before the comma as a noun. Sources: sbatch(1), gres.conf(5).
FORMS = {
    "account": (_NAME, "the name of an account, letters, digits, '.', '_', '-', '+' and '@'"),
    "partition": (rf"{_NAME}(?:,{_NAME})*", "the name of a partition, or several with commas between them"),
    "qos": (_NAME, "the name of a quality of service, letters, digits, '.', '_', '-', '+' and '@'"),
    "gres": (r"[A-Za-z0-9_][A-Za-z0-9_.:,/()-]{0,255}", 'a list of resources, such as "gpu:a100:2"'),
    "time": (_TIME, 'a time limit, minutes, "hours:minutes:seconds" or "days-hours"'),
    "memory": (r"[1-9]\d{0,8}[KMGT]?", 'an amount of memory, such as "16G"'),
    "signal": (_SIGNAL, 'a signal and the seconds that it comes before the end, such as "USR1@120"'),
    "container": (r"[^-].{0,4095}", "a container image, a file or an address such as docker://NAME"),
}


@dataclass(frozen=True)
class Slurm:
    """What a job of a cluster is asked to be; None leaves it to the cluster.

    account, partition, qos, gres, time, memory: as of sbatch; cpus: of a job, None for a core for each slot; setup:
    lines of the batch script before it trains; container: an Apptainer image to train in; signal: with which the
    cluster announces the end of a job, and how many seconds before; pilot: whether a job trains whatever the sweep has
    left until its time is over, else one that is its own; jobs: pilots, None for as many as their time asks for;
    max_array: jobs at most.
    """

    account: str | None = None
    partition: str | None = None
    qos: str | None = None
    gres: str | None = None
    time: str | None = None
    cpus: int | None = None
    memory: str | None = None
    setup: tuple[str, ...] = ()
    container: str | None = None
    jobs: int | None = None
    max_array: int = 100  # ours: a tenth of MaxArraySize as Slurm sets it
    signal: str = "USR1@120"  # ours: the time that a worker has to write a checkpoint
    pilot: bool = True

    @property
    def seconds(self) -> int | None:
        """The time limit of a job, None if the cluster decides. Source: sbatch(1), --time."""
        found = re.fullmatch(_TIME, self.time or "")
        if found is None:
            return None
        days, first, second, third = (None if part is None else int(part) for part in found.groups())
        if days is not None:  # days-hours[:minutes[:seconds]]
            return days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
        if third is not None:  # hours:minutes:seconds
            return (first or 0) * 3600 + (second or 0) * 60 + third
        return (first or 0) * 60 + (second or 0)  # minutes[:seconds]

    @property
    def grace(self) -> int:
        """Seconds between the announcement and the end of a job."""
        return int(self.signal.rpartition("@")[2])

    @property
    def gpus(self) -> int:
        """GPUs of a job, 0 for none."""
        for part in (self.gres or "").split(","):
            kind, *rest = part.removeprefix("gres/").removeprefix("gres:").partition("(")[0].split(":")
            if kind == "gpu":
                return next((int(held) for held in reversed(rest) if held.isdecimal()), 1)
        return 0

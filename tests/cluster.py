"""A Slurm of one node on loopback, with munge and without accounting, in a folder of its own and on free ports."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
CONF = """\
ClusterName=scalectl
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
KillWait=20
MinJobAge=60
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """The programs that a cluster needs and this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=PLACES) is None]


class Cluster:
    """Its daemons, stopped by their own ids; `environment` is what the commands of Slurm need."""

    def __init__(self, folder: Path, cpus: int = 2):
        self.folder, self.cpus = folder, cpus
        self.processes = {}
        self.host = socket.gethostname().partition(".")[0]
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PLACES}

    def start(self):
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        ports = free_ports(2)
        (self.folder / "slurm.conf").write_text(
            CONF.format(
                host=self.host, folder=self.folder, user=psutil.Process().username(), cpus=self.cpus,
                controller=ports[0], daemon=ports[1],
            )
        )  # fmt: skip
        self.run(
            "munged", "--foreground", "--force", "--num-threads=2", f"--key-file={key}",
            f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed",
        )  # fmt: skip
        wait_for(lambda: (self.folder / "munge.socket").exists())
        self.run("slurmctld", "-D", "-i")
        self.start_node()
        wait_for(lambda: self.ask("sinfo", "-h", "-o", "%T").strip() == "idle", 60)

    def start_node(self):
        self.run("slurmd", "-D", "-N", self.host)

    def run(self, name, *arguments):
        log = (self.folder / f"{name}.out").open("ab")
        program = shutil.which(name, path=PLACES)
        self.processes[name] = subprocess.Popen(
            [program, *arguments], env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, start_new_session=True,
        )  # fmt: skip
        log.close()

    def ask(self, *command):
        """What a command of Slurm prints; "" where it fails."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout if done.returncode == 0 else ""

    def jobs(self, state):
        return sorted(self.ask("squeue", "--noheader", "--array", f"--states={state}", "--format=%i").split())

    def steps(self):
        """The processes that watch over jobs, and all that they started."""
        mine = f"{self.folder}/"
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if "slurmstepd" in process.name() and mine in process.environ().get("SLURM_CONF", mine):
                    found += [process, *process.children(recursive=True)]
        return found

    def kill_node(self):
        """SIGKILL to the daemon of the node and to all jobs on it, as when the power fails."""
        self.end("slurmd", signal.SIGKILL)
        for process in self.steps():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def end(self, name, number):
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(30)

    def stop(self):
        if "slurmctld" in self.processes:
            self.ask("scancel", "--user", psutil.Process().username())
            with contextlib.suppress(AssertionError):
                wait_for(lambda: not self.ask("squeue", "-h").strip(), 40)
        for name in ("slurmd", "slurmctld", "munged"):
            if name in self.processes:
                self.end(name, signal.SIGTERM if name != "munged" else signal.SIGKILL)


def wait_for(condition, seconds=30.0):
    """Return once it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for held in sockets:
        held.bind(("127.0.0.1", 0))
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports

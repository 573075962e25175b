"""A Ray cluster of several nodes on this machine, with a token of its own, in a short folder and on free ports."""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
from cluster import free_ports, wait_for

MISSING = importlib.util.find_spec("ray") is None


class RayCluster:
    """Its nodes are processes of ours, ended by their own ids; `environment` is what joins it."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))  # a socket's path has 107 bytes at most
        self.port = free_ports(1)[0]
        token = self.folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        self.nodes = {}
        self.environment = {
            "RAY_ADDRESS": f"{socket.gethostbyname(socket.gethostname())}:{self.port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else 15, with which nothing trains on a machine that is busy
        }

    def start(self):
        self.start_node("head", "--head", f"--port={self.port}", "--include-dashboard=false", "--temp-dir", self.folder)
        self.start_other()

    def start_other(self):
        self.start_node("other", f"--address={self.environment['RAY_ADDRESS']}")

    def start_node(self, name, *arguments):
        log = self.folder / f"{name}.out"
        with log.open("wb") as out:
            self.nodes[name] = subprocess.Popen(
                [
                    sys.executable, "-m", "ray.scripts.scripts", "start", *map(str, arguments), "--num-cpus=1",
                    "--object-store-memory=80000000", "--min-worker-port=0", "--max-worker-port=0", "--block",
                ],
                env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: "Ray runtime started" in log.read_text() or self.nodes[name].poll() is not None, 120)
        assert self.nodes[name].poll() is None, log.read_text()

    def processes(self, name):
        """All of a node: Ray's own, its workers, and what they started."""
        process = psutil.Process(self.nodes[name].pid)
        return [process, *process.children(recursive=True)]

    def kill_node(self, name):
        """SIGKILL to a node and all that runs on it, as when the power fails."""
        found = self.processes(name)
        for process in found:
            process.send_signal(signal.SIGKILL) if process.is_running() else None
        self.nodes.pop(name).wait(30)
        psutil.wait_procs(found, 30)

    def workers(self, name):
        """The processes of Ray on a node that run a pilot."""
        found = self.processes(name)
        return [process.parent() for process in found if "scalectl.cli" in process.cmdline()]

    def stop(self):
        for name in [*self.nodes]:
            self.kill_node(name)
        shutil.rmtree(self.folder, ignore_errors=True)

"""Ray: pilots as tasks of a cluster, each a process of its own under the worker that Ray gives it.

A task carries texts and numbers alone, and answers with a number: what runs is in the store. It dies with its worker,
the worker with its node and with the process that asked for it, so that nothing goes on unseen. No cluster is started
or stopped from here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scalectl
from scalectl.core.errors import ScalectlError, UsageError
from scalectl.core.machine import MEMORY
from scalectl.core.names import shown
from scalectl.executors.local import CPUS
from scalectl.store.files import create
from scalectl.sweep.ray import FORMS, Ray

PILOT = "SCALECTL_PILOT"  # the variable that tells a pilot its place among the others
REACH_SECONDS = 5.0  # for the port of a cluster's head to open; ours
# Without a head, before the sweep ends. Source: ours; after 60 s Ray ends this process, without a word.
SILENT_SECONDS = 20.0
LOOK_SECONDS = 0.2
OTHER_VERSION = "Version mismatch: "  # how Ray begins what it says of it
ADDRESS = "RAY_ADDRESS"
AUTH_MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


@dataclass(frozen=True)
class Node:
    """A living node. resources: all of it, used or not, as Ray counts them."""

    id: str
    address: str
    resources: Mapping[str, float]


@dataclass(frozen=True)
class Ended:
    """A pilot that is no more.

    code: with which it exited, None where it did not come to that; why: what became of it instead; failed: whether that
    will be the same anywhere; cancelled: whether it was ended from here.
    """

    index: int
    code: int | None = None
    why: str = ""
    failed: bool = False
    cancelled: bool = False


def token_file() -> Path:
    """Our own token: scalectl/ray-token in XDG_CONFIG_HOME or ~/.config."""
    shared = os.environ.get("XDG_CONFIG_HOME")
    return Path(shared if shared and os.path.isabs(shared) else os.path.expanduser("~/.config")) / "scalectl/ray-token"


def authenticate() -> None:
    """Settle how this process shows a cluster who it is, unless its environment does: by a token that we alone read.

    Raises: UsageError for a token that cannot be read, or that others can read.
    """
    os.environ.setdefault(AUTH_MODE, "token")
    if os.environ[AUTH_MODE] != "token" or os.environ.get(TOKEN):
        return
    path = Path(os.environ.setdefault(TOKEN_PATH, str(token_file())))
    try:
        if not path.exists() and path == token_file():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create(path, secrets.token_hex(32).encode(), mode=0o600)
        held = path.stat()
    except OSError as error:
        raise UsageError(
            f"the token of the cluster cannot be read: {error.strerror}",
            where=str(path),
            remedy=f"set {TOKEN_PATH}=FILE",
        ) from None
    if held.st_uid != os.geteuid() or stat.S_IMODE(held.st_mode) & 0o077 or not stat.S_ISREG(held.st_mode):
        raise UsageError(
            "the token of the cluster is not this user's alone", where=str(path), remedy=f"chmod 600 {path}"
        )


class Cluster:
    """A connection to a cluster, of which there is one in a process. Its pilots end when it is closed.

    Args: client: the module `ray`; asked: what a pilot is given; cores: of a pilot.
    """

    def __init__(self, client: Any, asked: Ray, cores: int) -> None:
        self.client = client
        self.asked = asked
        self.cores = cores
        self.tasks: dict[Any, int] = {}
        self.lost = False

    @property
    def resources(self) -> dict[str, float]:
        """What a pilot takes of its node, as Ray counts it."""
        held: dict[str, float] = {"CPU": self.cores, "GPU": self.asked.gpus, "memory": self.asked.bytes or 0}
        return {name: amount for name, amount in {**held, **self.asked.amounts}.items() if amount}

    def nodes(self) -> list[Node]:
        """The nodes that live. Raises: ScalectlError if the cluster does not answer."""
        deadline = time.monotonic() + SILENT_SECONDS
        while not _reachable(self.address):  # Ray itself would wait, deaf to signals
            if time.monotonic() > deadline:
                raise self._gone("its head is gone")
            time.sleep(LOOK_SECONDS)
        try:
            found = [held for held in self.client.nodes() if held["Alive"]]
        except self.client.exceptions.RayError as error:
            raise self._gone(str(error).partition("\n")[0]) from None
        return [Node(held["NodeID"], held["NodeManagerAddress"], held["Resources"]) for held in found]

    def _gone(self, said: str) -> ScalectlError:
        self.lost = True
        return ScalectlError(
            f"the Ray cluster no longer answers: {said}",
            where=f"Ray at {self.address}",
            remedy="start it and repeat the command; the runs go on from their checkpoints",
        )

    def fits(self) -> int:
        """Pilots at once on its nodes, if nobody else takes them."""
        wanted = self.resources.items()
        return sum(int(min(node.resources.get(name, 0.0) // held for name, held in wanted)) for node in self.nodes())

    def lacks(self) -> str:
        """What a pilot takes that no node has, or no node has together, in words."""
        nodes, wanted = self.nodes(), self.resources
        lacks = [name for name, held in wanted.items() if all(node.resources.get(name, 0.0) < held for node in nodes)]
        return " and ".join(_amount(name, wanted[name]) for name in lacks or wanted)

    def room(self) -> int:
        """Pilots at once on its nodes. Raises: UsageError if no node has what one pilot takes."""
        found = self.fits()
        if found:
            return found
        raise UsageError(
            f"no node of the cluster has {self.lacks()}",
            where=f"Ray at {self.address}",
            remedy="ask for less in [ray], or start a node that has it",
        )

    @property
    def address(self) -> str:
        """Of its head."""
        return str(self.client.get_runtime_context().gcs_address)

    def start(self, index: int, name: str, command: Sequence[str], search: Sequence[str], log: Path) -> None:
        """Hand a pilot to the cluster, which starts it where there is room.

        Args: index: its place among the pilots; name: what Ray calls it; command: arguments of `scalectl`; search:
        folders of the user's own models; log: file for what it says.
        """
        given = {CPUS: str(self.cores), PILOT: str(index)}
        given |= {MEMORY: str(self.asked.bytes)} if self.asked.bytes else {}
        wanted = self.resources
        task = self.client.remote(_pilot).options(
            num_cpus=self.cores,
            num_gpus=self.asked.gpus,
            memory=self.asked.bytes,
            resources={key: held for key, held in wanted.items() if key in self.asked.amounts},
            max_retries=0,  # whether one is worth another is decided by what the store says
            scheduling_strategy="SPREAD",
            name=name,
        )
        self.tasks[task.remote(list(command), list(search), os.getcwd(), str(log), given)] = index

    def ended(self) -> list[Ended]:
        """The pilots that have ended since the last call."""
        errors = self.client.exceptions
        done, _ = self.client.wait([*self.tasks], num_returns=len(self.tasks), timeout=0) if self.tasks else ([], [])
        found = []
        for task in done:
            index = self.tasks.pop(task)
            try:
                code, why = self.client.get(task)
                found.append(Ended(index, code, why, failed=bool(why)))
            except errors.TaskCancelledError:
                found.append(Ended(index, cancelled=True))
            except errors.RayTaskError as error:
                said = [line for line in str(error).splitlines() if line.strip()]
                found.append(Ended(index, why=said[-1].strip(), failed=True))
            except errors.NodeDiedError:
                found.append(Ended(index, why="lost its node"))
            except errors.OutOfMemoryError:
                found.append(Ended(index, why="was killed, since its node ran out of memory"))
            except errors.RayError:
                found.append(Ended(index, why="died with its worker"))
        return found

    def cancel(self, indices: Collection[int], *, force: bool = False) -> None:
        """Tell pilots to checkpoint and end, or end them where they are; those that wait will not begin."""
        for task in [task for task, index in self.tasks.items() if index in indices]:
            self.client.cancel(task, force=force)

    def close(self) -> None:
        """Leave the cluster; what it still trains for us ends, with this process if the cluster is gone."""
        if not self.lost:  # else it would be waited for
            self.client.shutdown()


def _amount(name: str, held: float) -> str:
    if name == "memory":
        return f"{held / 2**30:.3g} GiB of memory"
    plural = "" if held == 1 else "s"
    words = {"CPU": f"core{plural}", "GPU": f"GPU{plural}"}
    return f"{held:g} {words.get(name, name)}"


def connect(asked: Ray, cores: int) -> Cluster:
    """Join a cluster that is there, as a process of one of its nodes.

    Raises: UsageError without `ray`, without a token, or where no cluster answers.
    """
    authenticate()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process: what goes wrong, an exception says
    try:
        import ray as client
    except ImportError:
        raise UsageError(
            "ray is not installed",
            where="--engine ray hands pilots to a Ray cluster",
            remedy="pip install 'scalectl[ray]', in the version of the cluster, or train here with --engine local",
        ) from None
    address = asked.address
    if address == "auto":
        address = os.environ.get(ADDRESS) or "auto"
        pattern, remedy = FORMS["address"]
        if re.fullmatch(pattern, address) is None:
            what, _, allowed = remedy.partition(", ")
            raise UsageError(f"{shown(address)} is not {what}", where=ADDRESS, remedy=f"set it to {allowed}")
    if address != "auto" and not _reachable(address):
        raise _silent(address, "nobody listens there")
    try:
        with _silenced():
            client.init(address=address, namespace="scalectl", log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError, OSError, client.exceptions.RayError) as error:
        said = " ".join(str(error).split())[:300]
        if said.startswith(OTHER_VERSION):
            raise UsageError(
                f"the Ray cluster has another version: {said.removeprefix(OTHER_VERSION).strip()}",
                where="--engine ray joins it as one of its processes",
                remedy="pip install 'ray==VERSION', that of the cluster, under its version of Python",
            ) from None
        raise _silent(address, said) from None
    with contextlib.suppress(AttributeError):  # what its workers say stands in their logs; stdout is for results
        client._private.worker._worker_logs_enabled = False
    return Cluster(client, asked, cores)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Without what Ray's C++ writes to standard error, such as the log level that it was told."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _silent(address: str, said: str) -> UsageError:
    where = "on this machine" if address == "auto" else f"at {address}"
    with_token = f", with its token in {os.environ[TOKEN_PATH]}" if TOKEN_PATH in os.environ else ""
    given = " ".join(f"{name}={os.environ[name]}" for name in (AUTH_MODE, TOKEN_PATH) if name in os.environ)
    return UsageError(
        f"no Ray cluster answers {where}: {said}",
        where=f"--engine ray trains from a node of the cluster{with_token}",
        remedy=f"on its first node: {given} ray start --head",
    )


def _reachable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _pilot(command: list[str], search: list[str], cwd: str, log: str, given: dict[str, str]) -> tuple[int, str]:
    """What a task does on its node: `scalectl COMMAND`, which dies with this process.

    Cancelled by force it has no say in it; else Ray interrupts it, as by Ctrl-C, and it tells the pilot to end.
    Returns: exit code; why there was no pilot, "" if there was one.
    """
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    paths = [*search, str(Path(scalectl.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    kept = {name: held for name, held in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, **given, "PYTHONPATH": ":".join(filter(None, paths))}
    try:
        with open(log, "ab", buffering=0) as out:
            out.write(f"started on {socket.gethostname()}\n".encode())
            process = subprocess.Popen(
                [sys.executable, "-m", "scalectl.cli", *command, "--parent", str(os.getpid())],
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        while process.poll() is None:
            if asked:
                asked.clear()
                process.terminate()
            time.sleep(LOOK_SECONDS)
        return process.returncode, ""
    except OSError as error:
        return 1, f"{error.strerror}: {error.filename} on {socket.gethostname()}"
    finally:
        signal.signal(signal.SIGINT, before)

"""A run in flight: who holds it, its rows so far, its checkpoint and log, and what state it is in.

    live/ID/rows.jsonl     one JSON object per measurement, appended
    live/ID/checkpoint     opaque bytes of the trainer, replaced as a whole
    live/ID/log            what the trainer printed
    live/ID/state.json     why it is not running: paused, oom, ...; or running, and what it waits for
    live/ID/sources        digests of the code of its attempts, one a line
    live/ID/claim.K        who trains it; the highest K counts

A claim is taken by linking a complete file to the next number, which exactly one process can do. The highest number
is never deleted or reused while the folder exists, so a slow rival that saw an older claim cannot take the run again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from scalectl.core import fault
from scalectl.core.errors import BudgetRefused, StoreBusy, StoreError
from scalectl.core.job import State
from scalectl.core.rows import Row
from scalectl.store.files import atomic_write, reading, temporary_name, writing
from scalectl.store.index import Index, refresh, stamps
from scalectl.store.layout import Store
from scalectl.store.reader import DamagedRun, read_meta
from scalectl.store.schema import exact

# A holder on another host is dead after this long without a heartbeat [s]. Source: ours; four missed beats at one per
# 30 s, beyond the attribute caches of network file systems (60 s on NFS by default).
LEASE = 120.0
# How often a folder that vanishes under a claim is made again. Source: ours; each time another process has begun and
# ended the run, or seen that it is settled, between two system calls.
_CLAIM_TRIES = 16
_TAIL = 65_536  # bytes; the last row is looked for in this much of rows.jsonl


class Keeper(NamedTuple):
    """The process that started a holder and takes its runs over when it is gone. started: in clock ticks since boot."""

    pid: int
    started: int


NOBODY = Keeper(0, 0)


@dataclass(frozen=True)
class Holder:
    """The process behind a claim.

    host: machine, boot and process namespace, equal exactly when a pid means the same process for both sides;
    started: start of the process in clock ticks since boot, which no change of the clock moves;
    token: random, so that no two claims are equal; heartbeat: Unix time [s] of the last sign of life;
    released: given up; keeper, keeper_started: of the process that would take it over if the holder outlived it, 0 for
    a holder that dies with whoever started it.
    """

    host: str
    pid: int
    started: int
    token: str
    heartbeat: float
    released: bool = False
    keeper: int = 0
    keeper_started: int = 0

    def orphaned(self, host: str, now: float) -> bool:
        """Whether the holder goes on although its keeper is gone, as seen from `host`."""
        kept = not self.keeper or process_start(self.keeper) == self.keeper_started
        return self.host == host and not kept and self.alive(host, now)

    def alive(self, host: str, now: float) -> bool:
        """Whether the holder still has the run, as seen from `host` at Unix time `now` [s].

        On its own host the process decides, at once; from elsewhere the heartbeat does. Nothing is ever signalled.
        """
        if self.released:
            return False
        if self.host == host:
            return process_start(self.pid) == self.started
        return now - self.heartbeat < LEASE


@dataclass(frozen=True)
class Claim:
    """The right to train a run, held by this process. number: place of the claim in its folder."""

    folder: Path
    number: int
    holder: Holder

    @property
    def path(self) -> Path:
        """File of the claim."""
        return self.folder / f"claim.{self.number}"

    def held(self) -> bool:
        """Whether nobody has taken the run over since, after a heartbeat that came too late.

        Raises: StoreError if the whole store is gone, which is nobody's doing who trains.
        """
        highest = max(_numbers(self.folder), default=0)
        if not highest and not self.folder.parent.is_dir():
            raise StoreError(
                "the folder of the runs in flight is gone",
                where=str(self.folder.parent),
                remedy="what was trained since is lost; the same command begins anew",
            )
        return highest == self.number

    def beat(self, now: float | None = None) -> Claim:
        """Renew the lease; a holder beats at least every LEASE / 4 seconds.

        Raises: StoreBusy if the run was taken over.
        """
        if not self.held():
            raise StoreBusy(
                f"run {self.folder.name} was taken over by another process",
                where=str(self.folder),
                remedy="this process stops; scalectl status shows who goes on",
            )
        beaten = replace(self, holder=replace(self.holder, heartbeat=time.time() if now is None else now))
        atomic_write(beaten.path, json.dumps(asdict(beaten.holder)).encode())
        return beaten

    def release(self) -> None:
        """Give the run up; the file stays as the number below which nobody claims again."""
        if not (self.folder.is_dir() and self.held()):
            return
        try:
            atomic_write(self.path, json.dumps(asdict(replace(self.holder, released=True))).encode())
        except BudgetRefused:  # a full disk must not leave the run held: an empty claim is nobody's, and takes no space
            os.truncate(self.path, 0)


class Standing(NamedTuple):
    """The truth about a run. message: why it is not done; step: the last one known."""

    state: State
    message: str
    step: int


NOT_BEGUN = Standing(State.PENDING, "", 0)


@dataclass(frozen=True)
class Live:
    """The folder of a run in flight."""

    run_id: str
    folder: Path

    @property
    def rows_file(self) -> Path:
        """Measurements so far, one JSON object per line."""
        return self.folder / "rows.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The last complete checkpoint."""
        return self.folder / "checkpoint"

    @property
    def log(self) -> Path:
        """What the trainer printed."""
        return self.folder / "log"

    def claim(self, host: str | None = None, now: float | None = None, keeper: Keeper = NOBODY) -> Claim:
        """Take the run for this process.

        Args: host, now: identity and Unix time [s] to claim with; for tests of several hosts on one folder; keeper: who
        takes this process over if it goes on without the one that started it.
        Raises: StoreBusy if a living process holds it; StoreError or BudgetRefused if the folder cannot be written.
        """
        here = host_identity() if host is None else host
        time_now = time.time() if now is None else now
        with writing(self.folder):
            for _ in range(_CLAIM_TRIES):
                with contextlib.suppress(FileExistsError):  # the folder itself, which may be gone again by now
                    self.folder.mkdir(parents=True)
                try:
                    folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except FileNotFoundError:
                    continue
                try:
                    claim = self._claim(folder, here, time_now, keeper)
                finally:
                    os.close(folder)
                if claim is not None:
                    return claim
        raise self._busy(self.holder())

    def _claim(self, folder: int, host: str, now: float, keeper: Keeper) -> Claim | None:
        """Take the run in the open folder; None if that was cleared away meanwhile.

        Raises: StoreBusy if a living process holds it.
        """
        number = max(_numbers(folder), default=0)
        if number:
            holder = read_holder(self.folder / f"claim.{number}")
            if holder is not None and holder.alive(host, now):
                raise self._busy(holder)
        started = process_start(os.getpid())
        holder = Holder(host, os.getpid(), started or 0, secrets.token_hex(8), now, False, *keeper)
        claim = Claim(self.folder, number + 1, holder)
        if not self._link(claim, folder):
            return None
        # What an earlier holder left as its reason is over; a marker from now on is this holder's.
        self.unmark()
        for old in _numbers(self.folder):
            if old < claim.number:
                (self.folder / f"claim.{old}").unlink(missing_ok=True)
        return claim

    def _link(self, claim: Claim, folder: int) -> bool:
        """Link a claim into the open folder; False if that is no longer the run's folder.

        The number was read from this very folder, so it says nothing in another one under the same name: there a claim
        of that number could stand above a living holder's.

        Raises: StoreBusy if somebody else has the number or a higher one.
        """
        temporary = temporary_name(self.folder.with_name(f"{self.run_id}.claim"))  # outlives a clearing of the folder
        try:
            atomic_write(temporary, json.dumps(asdict(claim.holder)).encode())
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                os.link(temporary, claim.path.name, dst_dir_fd=folder)
            # The link count tells who won even where a network file system repeats a request and answers "exists".
            won = temporary.stat().st_nlink == 2
        finally:
            temporary.unlink(missing_ok=True)
        if not _is_at(folder, self.folder):
            if won:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(claim.path.name, dir_fd=folder)
            return False
        if won and claim.held():
            os.fsync(folder)
            return True
        if won:  # a rival went on to a higher number while this one looked at an old list
            with contextlib.suppress(FileNotFoundError):
                os.unlink(claim.path.name, dir_fd=folder)
        raise self._busy(self.holder())

    def _busy(self, holder: Holder | None) -> StoreBusy:
        who = f"process {holder.pid} on {holder.host.split('/')[0]}" if holder else "another process"
        return StoreBusy(
            f"run {self.run_id} is being trained by {who}",
            where=str(self.folder),
            remedy="wait for it, or join with the same sweep; a dead holder frees its runs by itself",
        )

    def holder(self) -> Holder | None:
        """Who holds the run or held it last; None if nobody did."""
        with reading(f"run {self.run_id}", self.folder):
            number = max(_numbers(self.folder), default=0)
            return read_holder(self.folder / f"claim.{number}") if number else None

    def append(self, rows: Iterable[Row]) -> None:
        """Add measurements in one write that is handed to the system before this returns.

        A torn line that a crash left at the end is cut off first. If the disk fills, the file keeps its whole lines.

        Raises: ValueError for a number that is not finite or a row of another run; BudgetRefused if the disk is full.
        """
        lines = []
        for row in rows:
            if row.run_id != self.run_id:
                raise ValueError(f"a row of run {row.run_id} among those of {self.run_id}")
            lines.append(json.dumps(exact(row)._asdict(), allow_nan=False) + "\n")
        content = "".join(lines).encode()
        if not content:
            return
        with writing(self.rows_file):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self.rows_file, flags, 0o666)
            try:
                end = _whole_lines(handle)
                os.ftruncate(handle, end)
                os.lseek(handle, end, os.SEEK_SET)
                try:
                    written = 0
                    if fault.PLANNED:
                        _torn(handle, content)
                    while written < len(content):
                        written += os.write(handle, content[written:])
                except OSError:
                    os.ftruncate(handle, end)
                    raise
            finally:
                os.close(handle)

    def rows(self) -> tuple[list[Row], tuple[str, ...]]:
        """Measurements so far, in the order of their steps, each (step, split, metric) once: the last written counts.

        Returns: the rows, and one sentence for each kind of line that was left out.
        """
        try:
            content = self.rows_file.read_bytes()
        except FileNotFoundError:
            return [], ()
        lines = content.split(b"\n")
        notes = []
        if lines[-1]:
            notes.append(f"run {self.run_id}: the last line of rows.jsonl was torn and is left out")
        held: dict[tuple[int, str, str], Row] = {}
        unreadable = repeated = 0
        for line in lines[:-1]:
            row = _row(line)
            if row is None or row.run_id != self.run_id:
                unreadable += 1
                continue
            key = (row.step, row.split, row.metric)
            repeated += key in held
            held[key] = row
        if unreadable:
            notes.append(f"run {self.run_id}: unreadable lines of rows.jsonl, left out: {unreadable}")
        if repeated:
            notes.append(f"run {self.run_id}: rows written twice, of which the later ones count: {repeated}")
        return sorted(held.values(), key=lambda row: row.step), tuple(notes)

    def truncate(self, step: int) -> tuple[str, ...]:
        """Keep the rows up to a checkpoint's step, before the run goes on from there. Returns: the notes of `rows`."""
        rows, notes = self.rows()
        if self.rows_file.exists():
            self.rewrite(row for row in rows if row.step <= step)
        return notes

    def rewrite(self, rows: Iterable[Row]) -> None:
        """Put these measurements in the place of all so far."""
        lines = (json.dumps(exact(row)._asdict(), allow_nan=False) + "\n" for row in rows)
        atomic_write(self.rows_file, "".join(lines).encode())

    def save_checkpoint(self, content: bytes | Callable[[BinaryIO], object]) -> None:
        """Replace the checkpoint, as `atomic_write` does.

        The rows are made durable first: after a power cut no checkpoint is ahead of the rows that led to it.
        """
        with writing(self.rows_file):
            if self.rows_file.exists():
                handle = os.open(self.rows_file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
        atomic_write(self.checkpoint, content)

    def mark(self, state: State, message: str = "", step: int = 0) -> None:
        """Record why the run stands still, before the claim is released; or, as running, what it waits for."""
        atomic_write(
            self.folder / "state.json", json.dumps({"state": str(state), "message": message, "step": step}).encode()
        )

    def unmark(self) -> None:
        """Forget what `mark` recorded."""
        (self.folder / "state.json").unlink(missing_ok=True)

    def marker(self) -> Standing | None:
        """Return what `mark` recorded last."""
        try:
            with reading(f"run {self.run_id}", self.folder):
                data = json.loads((self.folder / "state.json").read_bytes())
            return Standing(State(data["state"]), str(data["message"]), int(data["step"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def last_step(self) -> int:
        """Step of the last whole row; 0 if there is none."""
        try:
            with reading(f"run {self.run_id}", self.folder), open(self.rows_file, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL))
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return 0
        return next((row.step for row in map(_row, reversed(lines)) if row is not None), 0)

    def trained_by(self, source: str, *, again: bool) -> tuple[str, ...]:
        """Note which code trains the run from now on.

        Args: again: it goes on from a checkpoint, so that earlier code counts too.
        Returns: the digests of all code that its numbers come from, in order, each once.
        """
        path = self.folder / "sources"
        before = path.read_text().split() if again and path.exists() else []
        found = tuple(dict.fromkeys([*before, *([source] if source else [])])) or ("",)
        if source in before[:-1]:  # back to what it was: the last is the one that trains now
            found = (*(held for held in found if held != source), source)
        self.set_sources(found)
        return found

    def set_sources(self, sources: Iterable[str]) -> None:
        """Replace what `trained_by` noted."""
        atomic_write(self.folder / "sources", "".join(f"{source}\n" for source in sources).encode(), durable=False)

    def clear(self, *, keep_log: bool = False) -> None:
        """Remove the folder once the run's file is written; links in it are unlinked, never followed.

        For who holds the run. Args: keep_log: leave the log for `scalectl logs`, as for a run that failed.
        """
        if not self.folder.is_dir():
            return
        with writing(self.folder):
            if not keep_log or not self.log.exists():
                # Under another name first: who claims the run meanwhile makes a folder of his own, and is not hit.
                gone = temporary_name(self.folder)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.folder, gone)
                for _ in range(_CLAIM_TRIES):  # a rival may link a claim into it a last time, and takes it back
                    shutil.rmtree(gone, ignore_errors=True)
                    if not gone.exists():
                        break
                return
            highest = max(_numbers(self.folder), default=0)
            kept = (self.log.name, f"claim.{highest}")
            for entry in os.scandir(self.folder):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                elif entry.name not in kept:
                    os.unlink(entry.path)
            if highest:  # last, and emptied: nobody's from now on, but still the number below which nobody claims
                os.truncate(self.folder / f"claim.{highest}", 0)


def live(store: Store, run_id: str) -> Live:
    """Return the folder of a run in flight, whether or not it exists.

    Raises: UsageError for a bad run id, StoreError if it is a link out of the store.
    """
    return Live(run_id, store.live_folder(run_id))


def begin(store: Store, run_id: str, keeper: Keeper = NOBODY) -> tuple[Live, Claim] | None:
    """Claim a run that is not settled; None if it is done or diverged.

    The file is looked for after the claim is taken: a rival may have finished the run a moment ago, and who looks first
    and claims then would train it a second time.

    Raises: StoreBusy if a living process holds it; as `Live.claim`.
    """
    folder = live(store, run_id)
    claim = folder.claim(keeper=keeper)
    if state_of(store, run_id).state.final:
        folder.clear()
        return None
    return folder, claim


def explain(store: Store, run_ids: Iterable[str], state: State, message: str, of: State = State.LOST) -> None:
    """Record why these runs ended, as whoever started their process saw it. of: only those that are in this state."""
    for run_id in run_ids:
        held = state_of(store, run_id)
        if held.state is of:
            with contextlib.suppress(BudgetRefused, StoreError):  # a full disk keeps the shorter story
                live(store, run_id).mark(state, message, held.step)


def release_dead(store: Store, run_id: str) -> None:
    """Take a lost run from its dead holder and let it go, still lost and with its story."""
    held = state_of(store, run_id)
    folder = live(store, run_id)
    with contextlib.suppress(StoreBusy):  # somebody goes on with it
        claim = folder.claim()
        folder.mark(State.LOST, held.message, held.step)
        claim.release()


def tidy(store: Store, run_ids: Iterable[str]) -> None:
    """Remove what is left in flight of runs that are done or diverged.

    A process that is killed between writing the file of a run and removing its folder leaves the folder behind.

    Args: run_ids: runs with a final file. A folder that a living process holds stays.
    """
    for run_id in run_ids:
        if live(store, run_id).folder.is_dir():
            with contextlib.suppress(StoreBusy):
                begin(store, run_id)  # clears what it finds finished


def state_of(store: Store, run_id: str) -> Standing:
    """Return the truth about one run, even after a crash.

    A finished file counts first, then a living holder, then an unreleased claim of a dead one (lost), then the marker
    in the live folder (paused, oom, ...) or a checkpoint that nobody holds, then the file of a run that failed or was
    cancelled; else the run is pending.
    """
    flying = live(store, run_id).folder.is_dir()
    found = standing(store, run_id, _filed(store, run_id))
    if found is NOT_BEGUN and flying:  # it ended between the look for its file and the one into its folder
        found = standing(store, run_id, _filed(store, run_id))
    return found


def _filed(store: Store, run_id: str) -> Standing | None:
    """What the run's file says; None if there is none, or it is damaged."""
    try:
        meta = read_meta(store.run_file(run_id))
    except (FileNotFoundError, DamagedRun):
        return None
    return Standing(meta.state, meta.message, int(meta.columns.get("steps") or 0))


def states(store: Store, run_ids: Iterable[str], index: Index | None = None) -> dict[str, Standing]:
    """Return the truth about many runs; settled ones come from the index, without opening their files.

    Args: index: from `refresh`, if it is at hand.
    """
    known = (index or refresh(store)).states()
    flying = set(store.in_flight())
    found = {}
    for run_id in run_ids:
        filed = None
        if run_id in known:
            state, message, steps = known[run_id]
            filed = Standing(State(state), message, steps)
        found[run_id] = standing(store, run_id, filed) if run_id in flying else filed or NOT_BEGUN
    missing = [run_id for run_id, held in found.items() if held is NOT_BEGUN]
    there = set(stamps(store)) if missing else set()  # last: who ended since then has a file now
    return found | {run_id: state_of(store, run_id) for run_id in missing if run_id in there}


def standing(store: Store, run_id: str, filed: Standing | None, now: float | None = None) -> Standing:
    """`state_of` with what the run's file (or the index) says already at hand, None if it has no file."""
    if filed is not None and filed.state.final:
        return filed
    folder = live(store, run_id)
    if folder.folder.is_dir():
        marker = folder.marker()
        holder = folder.holder()
        if holder is not None and not holder.released:
            if holder.alive(host_identity(), time.time() if now is None else now):
                waits = marker.message if marker is not None and marker.state is State.RUNNING else ""
                return Standing(State.RUNNING, waits, folder.last_step())
            # A holder that marked its reason and died before it could release: the reason is the better story.
            if marker is None or marker.state is State.RUNNING:
                where = holder.host.split("/")[0]
                said = f"process {holder.pid} on {where} ended without a word"
                return Standing(State.LOST, said, folder.last_step())
        if marker is not None and marker.state is not State.RUNNING:
            return marker
        if filed is None and folder.checkpoint.exists():  # let go on a disk too full to hold the reason
            return Standing(State.PAUSED, "stopped at a checkpoint", folder.last_step())
    return filed or NOT_BEGUN


def host_identity() -> str:
    """Host name, boot and process namespace of this process.

    Equal for two processes exactly when a pid names the same process for both: two containers on one kernel differ in
    the namespace, and the same machine after a restart differs in the boot.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}"


def process_start(pid: int) -> int | None:
    """Start of a living process [clock ticks since boot]; None if there is none or it is a zombie.

    Read from /proc rather than as a time of day: that one moves when the clock is set, and the living would look dead.
    Source: proc_pid_stat(5), fields 3 and 22; the name in field 2 may hold blanks and brackets.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZXx" else int(fields[19])


def _is_at(folder: int, path: Path) -> bool:
    """Whether the open folder is the one that now lies at the path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(folder))
    except FileNotFoundError:
        return False


def _numbers(folder: Path | int) -> list[int]:
    """Numbers of the claims in a folder, given by path or open."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = (name.removeprefix("claim.") for name in names if name.startswith("claim."))
    return [int(number) for number in found if number.isdecimal()]


def read_holder(path: Path) -> Holder | None:
    """Return who wrote a claim; None if it cannot be read."""
    try:
        data: dict[str, Any] = json.loads(path.read_bytes())
        return Holder(**data)
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _row(line: bytes) -> Row | None:
    """Return a line of rows.jsonl, None if it is none or its number is not finite."""
    try:
        data = json.loads(line)
        row = Row(
            run_id=str(data["run_id"]),
            step=int(data["step"]),
            tokens=int(data["tokens"]),
            flops=float(data["flops"]),
            split=str(data["split"]),
            metric=str(data["metric"]),
            value=float(data["value"]),
            seconds=float(data["seconds"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
    return row if all(map(math.isfinite, (row.value, row.flops, row.seconds))) else None


def _torn(handle: int, content: bytes) -> None:
    """Where a fault is planned here, half of the content is written first and taken back if the process lives on."""
    half = os.write(handle, content[: len(content) // 2])
    fault.hit("worker.rows")
    os.lseek(handle, -half, os.SEEK_CUR)


def _whole_lines(handle: int) -> int:
    """Bytes of an open file up to and including its last newline."""
    end = os.lseek(handle, 0, os.SEEK_END)
    while end:
        start = max(0, end - _TAIL)
        position = os.pread(handle, end - start, start).rfind(b"\n")
        if position >= 0:
            return start + position + 1
        end = start
    return 0

"""One attempt at a run of somebody's script: its process, what it says of itself, and the truth about how it ended.

The script runs in a process group of its own and dies with this process. Its folder in the store:

    live/ID/rows.K     where the script appends its rows (SCALECTL_ROWS), K the number of the claim it began under
    live/ID/out/       `{out}` of its command (SCALECTL_OUT): its checkpoints, and whatever else it keeps there
    live/ID/log        what it printed
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from scalectl.core import family, fault, machine
from scalectl.core.errors import BudgetRefused, ScalectlError, StoreBusy, StoreError
from scalectl.core.family import die_with
from scalectl.core.job import CommandJob, Placement, State
from scalectl.core.names import escaped
from scalectl.core.rows import HELD_OUT, LOSS, Row
from scalectl.core.run import CommandRun
from scalectl.core.source import source_digest
from scalectl.core.template import plain
from scalectl.core.units import counted
from scalectl.store import live
from scalectl.store.files import leftovers, no_link, refused_link, remove, sync_folder, temporary_name, writing
from scalectl.store.layout import Store
from scalectl.store.live import NOBODY, Keeper
from scalectl.store.writer import write_run
from scalectl.train import leases
from scalectl.train.listen import COUNTS, Heard, Tail, completed, printed, said
from scalectl.train.provenance import command_provenance, now

POLL_SECONDS = 0.05  # between looks at what the script wrote
BEAT_SECONDS = 0.5  # between messages
GRACE_SECONDS = 10.0  # between SIGTERM and SIGKILL
LIFE_SECONDS = 1.0  # of computing that count as a sign of life of a script that says nothing
MESSAGE = 300  # characters of a script's last words in a message
LAST_WORDS = 20_000  # bytes of what it printed in which they are looked for
KILLED = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)  # as 128 + n a shell's words for its child
ROWS = re.compile(r"rows\.([0-9]+)")  # where the script of one attempt appends its rows
BEGUN = b"  attempt "  # in the log, where what an attempt printed begins

Tell = Callable[[Mapping[str, Any]], None]


class _Taken(Exception):
    """The run is another process's by now."""


class Killed(Exception):
    """The script was killed by a signal, as by the system for want of memory: its run is lost, and goes on later."""


class CommandAttempt:
    """Runs a script to its end, or until it is asked to stop.

    Args: store: where rows go; tell: receives one message per event (`began`, `beat`, `ended`, `busy`);
    stopping: asked all the time; once true the script is ended, and its run left paused; keeper: who takes this process
    over if it goes on without the one that started it.
    """

    def __init__(
        self, store: Store, job: CommandJob, tell: Tell, stopping: Callable[[], bool], keeper: Keeper = NOBODY
    ) -> None:
        self.store = store
        self.run_config = job.run
        self.placement = job.placement
        self.folder = Path(job.placement.search[0])
        self.tell = tell
        self.stopping = stopping
        self.keeper = keeper
        self.mark = ".".join(filter(None, (os.environ.get(family.MARK), family.new_mark())))
        self.started = now()
        self.told = False  # to stop, before it ended by itself
        self.resident = 0  # memory of the script and its children when they were last seen [bytes]
        self.oom_kills = machine.killed_for_memory()

    def run(self) -> None:
        """Go through the run.

        Raises: Killed, with the run still claimed; BudgetRefused or StoreError if the store cannot take what is
        measured; the run is left paused.
        """
        try:
            begun = live.begin(self.store, self.run_config.run_id, self.keeper)
        except StoreBusy as busy:
            self._busy(busy.what)
            return
        if begun is None:  # somebody else has finished it
            return
        self.live, self.claim = begun
        try:
            self.heard = self._heard()
            self._log(f"attempt {self.claim.number} {'goes on' if self.heard.known else 'begins'}")
            self._attempt()
        except _Taken:
            self._busy(leases.TAKEN)
        except FileNotFoundError:
            if self.claim.held():
                raise
            self._busy(leases.TAKEN)  # and ended: its folder is gone
        except ScalectlError as error:  # a full disk, say, or a link in the folder
            self._stand_still(error.what)
            raise

    def _busy(self, why: str) -> None:
        self.tell({"event": "busy", "run_id": self.run_config.run_id, "message": why})

    def _heard(self) -> Heard:
        """What the attempts before this one left, with what the last of them said and nobody wrote down."""
        run, begin = self.run_config, time.monotonic()
        dead = Heard(run, {(row.step, row.split, row.metric): row for row in self.live.rows()[0]}, lambda: 0.0)
        names = (ROWS.fullmatch(path.name) for path in self.live.folder.iterdir() if path.is_file())
        earlier = sorted(int(name[1]) for name in names if name is not None)
        for number in earlier:
            for line in Tail(self.live.folder / f"rows.{number}").lines(last=True):
                found = said(line)
                if number == earlier[-1]:
                    dead.again(found)
                elif found is not None and "step" not in found:
                    dead.hear(found)
        if run.rows and self.live.log.exists():
            with open(self.live.log, "rb", opener=no_link) as file:
                text = file.read()
            pattern = re.compile(run.rows)
            for line in text[max(0, text.rfind(BEGUN)) :].split(b"\n"):
                found = printed(pattern, line)
                if found is not None:
                    dead.again(found)
        if dead.fresh or dead.cut:
            self.live.rewrite(sorted(dead.known.values(), key=lambda row: row.step))
        return Heard(run, dead.known, lambda: time.monotonic() - begin, counts=dead.counts)

    def _attempt(self) -> None:
        run, out = self.run_config, self._out()
        places = {"out": str(out.absolute())}
        command = [plain(part, places) for part in run.command]
        rows = self.live.folder.absolute() / f"rows.{self.claim.number}"
        with writing(rows):
            os.close(no_link(str(rows), os.O_WRONLY | os.O_CREAT))
        about = command_provenance(run, command, self.folder, self.placement, self.started)
        if source_digest(self.folder, run.files) != run.source:
            self._end(
                State.FAILED, f"the code changed since the plan ({', '.join(run.files)}); plan the sweep again", about
            )
            return
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(self.placement.threads),
            "PYTHONUNBUFFERED": "1",  # a log that is empty until the end helps nobody
            **_device(self.placement),
            **{name: plain(text, places) for name, text in run.env},
            family.MARK: self.mark,
            "SCALECTL_ROWS": str(rows),
            "SCALECTL_PARAMS": json.dumps(dict(run.params)),
            "SCALECTL_OUT": places["out"],
        }
        with open(self.live.log, "ab", opener=no_link) as log:
            at = log.tell()
            try:
                process = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    preexec_fn=_die_with(os.getpid()),
                )
            except (OSError, ValueError) as error:  # ValueError: a character that no argument can hold
                reason = error.strerror if isinstance(error, OSError) else error
                self._end(State.FAILED, f"{escaped(command[0])} cannot be started: {reason}", about)
                return
        try:
            self._watch(process, Tail(rows), Tail(self.live.log, at))
        finally:
            self._end_family(process)
        about["ended"] = now()
        self._judge(process.returncode, about)

    def _out(self) -> Path:
        """`{out}`, taken back where an attempt died after it had moved it to where it stays; else a new one.

        Raises: StoreError if it is a link: what a script writes would go through it.
        """
        out, kept = self.live.folder / "out", self.store.kept_folder(self.run_config.run_id)
        with writing(out):
            if self.heard.known and kept.is_dir() and not out.exists():
                kept.rename(out)
            if out.is_symlink():
                raise refused_link(out)
            out.mkdir(exist_ok=True)
        return out

    def _watch(self, process: subprocess.Popen[bytes], rows: Tail, log: Tail) -> None:
        """Listen until the script has ended, by itself or because it was asked to."""
        run = self.run_config
        pattern = re.compile(run.rows) if run.rows else None
        self.tell({"event": "began", "runs": {run.run_id: max((key[0] for key in self.heard.known), default=0)}})
        looked = beat = lease = time.monotonic()
        computed, tokens, printed_at, alive = 0.0, self._tokens(), log.at, False
        deadline = None
        while True:
            over = process.poll() is not None
            for line in rows.lines(last=over):
                self.heard.hear(said(line))
            for line in log.lines(last=over) if pattern else ():
                found = printed(pattern, line) if pattern else None
                if found is not None:
                    self.heard.hear(found)
            news = self._write()
            if over:
                return
            clock = time.monotonic()
            if deadline is None and (self.stopping() or self.heard.diverged):
                self.told = not self.heard.diverged
                if self.told:
                    self.tell({"event": "stopping"})
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                deadline = clock + GRACE_SECONDS
            if deadline is not None and clock > deadline:
                self._end_family(process)
            alive = alive or news
            if clock - looked >= BEAT_SECONDS:
                spent, self.resident = _usage(process.pid)
                size = self.live.log.stat().st_size
                if alive or size != printed_at or spent - computed >= LIFE_SECONDS:
                    now_tokens = self._tokens()
                    self._beat((now_tokens - tokens) / (clock - beat))
                    beat, computed, tokens, printed_at, alive = clock, spent, now_tokens, size, False
                looked = clock
            if clock - lease >= leases.BEAT_SECONDS:
                try:
                    self.claim = self.claim.beat()
                except StoreBusy:
                    raise _Taken from None
                lease = clock
            time.sleep(POLL_SECONDS)

    def _end_family(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to what is left of a script and of all that it started."""
        family.end_family(process.pid, self.mark)
        process.wait()

    def _write(self) -> bool:
        """Put on disk what was heard. Returns: whether there was anything."""
        heard = self.heard
        if (heard.cut or heard.fresh) and not self.claim.held():
            raise _Taken
        if heard.cut:
            self.live.rewrite(sorted(heard.known.values(), key=lambda row: row.step))
        elif heard.fresh:
            self.live.append(heard.fresh)
        news = heard.cut or bool(heard.fresh)
        heard.fresh, heard.cut = [], False
        return news

    def _tokens(self) -> int:
        """Tokens at the last row, as far as they are known."""
        last = max(self.heard.known.values(), key=lambda row: row.step, default=None)
        return 0 if last is None else completed([last], self._counts(), self.run_config.steps)[0].tokens

    def _counts(self) -> dict[str, float | None]:
        """N, D and C of the whole run: what the script says counts before what the sweep file says."""
        run = self.run_config
        return {"N": run.N, "D": run.D, "C": run.C} | self.heard.counts

    def _beat(self, rate: float) -> None:
        losses = [row for row in self.heard.known.values() if row.metric == LOSS]
        last = max(losses, key=lambda row: (row.step, row.split != HELD_OUT), default=None)
        step = max((key[0] for key in self.heard.known), default=0)
        runs = {self.run_config.run_id: [step, None if last is None else last.value]}
        self.tell({"event": "beat", "runs": runs, "tokens_per_second": rate, "memory": self.resident})

    def _judge(self, code: int, about: Mapping[str, Any]) -> None:
        """Decide how the run ended. code: of its process, negative for the signal that killed it."""
        run, heard = self.run_config, self.heard
        if left_out := self._left_out():
            self._log(left_out)
        last = max((key[0] for key in heard.known), default=0)
        words = self._last_words()
        killed = -code if code < 0 else code - 128
        if heard.diverged:
            self._end(State.DIVERGED, heard.diverged, about)
        elif self.told and not (code == 0 and run.steps and last >= run.steps):
            self._stand_still("stopped; the script goes on from what it keeps in {out}")
        elif code < 0 or killed in KILLED:
            how = machine.killed(killed, self.resident, self.oom_kills)
            self._log(how)
            raise Killed(how)
        elif code and os.strerror(errno.ENOSPC) in words:
            self._stand_still(os.strerror(errno.ENOSPC))
            raise BudgetRefused(
                f"the disk is full: {words}",
                where=str(self.live.folder),
                remedy="free some space; the same command resumes",
            )
        elif code:
            self._end(State.FAILED, f"exit code {code}" + (f": {words}" if words else ", without a word"), about)
        elif not heard.known:
            what = "the script ended with code 0 and has written no row to SCALECTL_ROWS"
            self._end(State.FAILED, what + (", nor printed one that [run] rows finds" if run.rows else ""), about)
        else:
            self._end(State.DONE, "", about)

    def _left_out(self) -> str:
        """What of a run that is done was not stored, in words."""
        heard = self.heard
        found = [f"{counted(heard.left_out, 'row')} without a split, as others are held-out"] * (heard.left_out > 0)
        found += [f"{counted(heard.unread, 'line')} of the rows file, no row"] * (heard.unread > 0)
        found += [f"{name} = {text}" for name, text in heard.no_counts.items()]
        return f"left out: {'; '.join(found)}" if found else ""

    def _last_words(self) -> str:
        """The last line that the script printed."""
        with open(self.live.log, "rb", opener=no_link) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_WORDS))
            text = file.read()
        lines = text[max(0, text.rfind(BEGUN)) :].decode(errors="replace").split("\n")[1:]
        said_last = [line.strip() for line in lines if line.strip()]
        return escaped(said_last[-1], MESSAGE) if said_last else ""

    def _end(self, state: State, message: str, about: Mapping[str, Any]) -> None:
        """Write the run's one file, then remove its folder; that of a failed run stays, to be retried from."""
        run, folder = self.run_config, self.live
        if not self.claim.held():
            raise _Taken
        rows, notes = folder.rows()
        for note in notes:
            self._log(note)
        last = rows[-1].step if rows else 0
        counts = self._counts()
        seconds = self.heard.seconds()
        if run.keep and state is State.DONE:
            self._keep()
        if fault.PLANNED:
            fault.hit("worker.before_file", last, run=run.run_id)
        try:
            whole = completed(rows, counts, run.steps or (last if state is State.DONE else None))
            columns = _index_columns(run, whole, counts, seconds, about)
            write_run(self.store, run, whole, state, about, columns, message)
        except (OverflowError, ValueError) as error:  # N, D, C or steps by which numbers leave what the store can hold
            self._out()
            state, message, whole = State.FAILED, f"what it measured cannot be stored: {error}", rows
            columns = _index_columns(run, whole, dict.fromkeys(COUNTS), seconds, about)
            write_run(self.store, run, whole, state, about, columns, message)
        except StoreError as error:
            if not live.state_of(self.store, run.run_id).state.final:
                raise
            folder.clear()  # an import, say, has brought it: the first that was there stays
            self._busy(error.what)
            return
        if fault.PLANNED:
            fault.hit("worker.after_file", last, run=run.run_id)
        self._log(f"{state} at step {last} {message}".rstrip())
        if state is State.FAILED:
            self.claim.release()
        else:
            folder.clear()
        final = {f"{row.split}/{row.metric}": row.value for row in whole}
        self.tell(
            {
                "event": "ended",
                "run_id": run.run_id,
                "state": state,
                "step": last,
                "loss": final.get(f"{HELD_OUT}/{LOSS}"),
                "seconds": seconds,
                "message": message or self._left_out(),
            }
        )

    def _keep(self) -> None:
        """Move `{out}` to where it stays, before a file says that the run is done: nobody looks for it afterwards.

        An older one, of a run whose file was lost, has another name until the new one is there: wherever this process
        dies, what the script wrote is whole. A script that removed its folder keeps nothing.
        """
        out, kept = self.live.folder / "out", self.store.kept_folder(self.run_config.run_id)
        if out.is_symlink():
            raise refused_link(out)
        if not out.exists():
            return
        with writing(kept):
            kept.parent.mkdir(exist_ok=True)
            if kept.exists():
                kept.rename(temporary_name(kept))
            if fault.PLANNED:
                fault.hit("worker.keep", run=kept.name)
            out.rename(kept)
            sync_folder(kept.parent)
            sync_folder(self.live.folder)
        for entry in leftovers(kept.parent, older_than=-math.inf):
            if entry.name.startswith(f".{kept.name}."):
                remove(entry)

    def _stand_still(self, message: str) -> None:
        with contextlib.suppress(StoreError):  # the store is gone, and nobody has it
            if not self.claim.held():
                self._busy(leases.TAKEN)
                return
        with contextlib.suppress(ScalectlError):  # a full disk cannot hold the reason either
            self.live.mark(State.PAUSED, message, self.live.last_step())
        with contextlib.suppress(ScalectlError):
            self.claim.release()
        self.tell({"event": "ended", "run_id": self.run_config.run_id, "state": State.PAUSED, "message": message})

    def _log(self, text: str) -> None:
        # a log never stops a run
        with contextlib.suppress(OSError, StoreError), open(self.live.log, "a", opener=no_link) as file:
            file.write(f"{now()}  {text}\n")


def _index_columns(
    run: CommandRun, rows: list[Row], counts: Mapping[str, float | None], seconds: float, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The columns of the index that the config does not hold, None for what nobody counted."""
    last = rows[-1] if rows else None
    N = counts["N"]
    tokens = last.tokens if last is not None and last.tokens else None
    counted = last is not None and last.flops and (counts["C"] is not None or N is None)
    return {
        f"N_{run.convention}": None if N is None else round(N),
        "D": tokens,
        "C_6nd": 6 * N * tokens if N is not None and tokens is not None and run.convention == "non_embedding" else None,
        "C_exact": last.flops if last is not None and counted else None,
        "steps": last.step if last is not None else 0,
        "seconds": seconds,
        "pack": 1,
        "device": about["device_name"],
    }


def _device(placement: Placement) -> dict[str, str]:
    """The GPU of the slot as the only one that a script sees, counted among those that this process sees."""
    kind, _, index = placement.device.partition(":")
    if kind != "cuda":
        return {}
    visible = [part.strip() for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.strip()]
    return {"CUDA_VISIBLE_DEVICES": visible[int(index)] if visible else index}


def _die_with(parent: int) -> Callable[[], None]:
    """What a child does before it becomes the script: it dies with its parent, and hears Ctrl-C like any other."""

    def prepare() -> None:
        die_with(parent)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return prepare


def _usage(pid: int) -> tuple[float, int]:
    """Seconds that a process and its descendants have computed, and the memory that they hold [bytes]."""
    seconds, memory = 0.0, 0
    with contextlib.suppress(psutil.Error):
        script = psutil.Process(pid)
        for process in (script, *script.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                seconds += times.user + times.system
                memory += process.memory_info().rss
    return seconds, memory

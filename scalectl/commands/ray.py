"""`--engine ray`: how many pilots a sweep needs, starting them on a Ray cluster and following them.

The pilots end with this process, which therefore stays: in the background with `--detach`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from scalectl.commands import pilots
from scalectl.commands.pilots import Board, Said, wanted
from scalectl.commands.sweep import Prepared, check_budget, narrowed, record_plan
from scalectl.core.job import AnyJob
from scalectl.core.units import counted
from scalectl.executors.drive import Halted
from scalectl.executors.executor import Event
from scalectl.executors.local import CHECKPOINT_SECONDS
from scalectl.executors.ray import Cluster, Ended, connect
from scalectl.executors.submission import (
    AGAIN,
    Submission,
    clear,
    forget,
    last_words,
    log_of,
    record_of,
    submissions,
    write_submission,
)
from scalectl.report.plan_screen import ray_pilots
from scalectl.report.views import RayView
from scalectl.store.keepers import keeping, kept
from scalectl.store.layout import Store


@dataclass(frozen=True)
class Fleet:
    """The pilots for what is left of a sweep: how many at most, runs or packs at once in each, cores of each."""

    pilots: int
    slots: int
    cpus: int
    packs: tuple[AnyJob, ...]


def fleet(prepared: Prepared, run_ids: Collection[str], room: int | None = None) -> Fleet:
    """The pilots for these runs. room: that a cluster has for them, None where that is not known."""
    asked, threads = prepared.sweep.ray, prepared.at.cache.placement.threads
    slots = asked.gpus or prepared.sweep.runtime.slots or max(1, (asked.cpus or 1) // threads)
    cpus = asked.cpus or (asked.gpus or slots * threads)
    most = min(asked.pilots, room or asked.pilots)
    packs = narrowed(prepared, run_ids, most * slots).jobs
    return Fleet(min(most, -(-len(packs) // slots)), slots, cpus, packs)


def view(prepared: Prepared, held: Fleet) -> RayView:
    """The pilots of a sweep as facts to render."""
    asked = prepared.sweep.ray
    return RayView(held.pilots, held.slots, held.cpus, asked.gpus, asked.bytes, asked.amounts, asked.address)


def join(prepared: Prepared) -> Cluster:
    """The cluster that the sweep asks for. Raises: UsageError where there is none, or it has no room for a pilot."""
    cluster = connect(prepared.sweep.ray, fleet(prepared, wanted(prepared)).cpus)
    try:
        cluster.room()
    except BaseException:
        cluster.close()
        raise
    return cluster


def watch(
    prepared: Prepared,
    cluster: Cluster,
    stopping: Callable[[], int],
    *,
    retry: bool = False,
    max_runs: int | None = None,
) -> Iterator[Event | Halted | Said]:
    """Start pilots and follow them to their end; `prepared` is as `pilots.following` gives it.

    A pilot that died with its worker or its node is started again, wherever there is room, as often in a row as
    `[on_error] retries` allows without any progress of the sweep.

    Args: stopping: 1 to let the pilots checkpoint and end, 2 to end them; retry: also train runs that failed before;
    max_runs: as `scalectl sweep` was told.
    Raises: BudgetRefused before anything starts; StoreError; ScalectlError if the cluster no longer answers; UsageError
    if no node has room for a pilot any more.
    """
    store, name = prepared.store, prepared.sweep.name
    check_budget(prepared, hours=not prepared.sweep.ray.gpus)
    store.prepare()
    record_plan(prepared)
    board = Board(prepared)
    with keeping(store, name) as token:
        for held in submissions(store, name, "ray"):
            if not kept(store, name, held.token):  # of an orchestrator that was killed, and its pilots with it
                forget(store, held)
        clear(store, name, "ray")
        yield from _Crew(prepared, cluster, board, token, retry, max_runs).work(stopping)


@dataclass
class _Watched:
    """A pilot as it was started.

    progress: of the sweep by then; deaths: how often in a row it died without any; said: size of its log [bytes].
    """

    progress: tuple[int, int]
    deaths: int
    said: int


@dataclass
class _Crew:
    """The pilots of one orchestrator."""

    prepared: Prepared
    cluster: Cluster
    board: Board
    token: str
    retry: bool
    max_runs: int | None
    watched: dict[int, _Watched] = field(default_factory=dict)
    nodes: dict[str, str] = field(default_factory=dict)  # addresses by id
    trouble: str = ""  # how the last pilot failed that failed by itself

    def work(self, stopping: Callable[[], int]) -> Iterator[Event | Halted | Said]:
        """Rounds of pilots until nothing is left, or nothing moves."""
        attempts = 0
        submission: Submission | None = None
        try:
            while not stopping():
                if not self.board.left() and pilots.freed(self.prepared, stopping):  # of a node that is gone
                    yield from self.board.look()
                if not self.board.left():
                    return
                held = fleet(self.prepared, self.board.left(), self.cluster.room())
                submission = Submission(
                    self.prepared.sweep.name, self.token, held.pilots, retry=self.retry,
                    max_runs=self.max_runs, engine="ray",
                )  # fmt: skip
                write_submission(self.store, submission)
                before, halted, self.retry = self.board.progress(), False, False
                yield Said(f"  {ray_pilots(view(self.prepared, held))} on Ray at {self.cluster.address}")
                for event in self._round(submission, stopping):
                    halted |= isinstance(event, Halted)
                    yield event
                if halted or stopping():
                    return
                moved = self.board.progress() > before
                attempts = 0 if moved else attempts + 1
                if self.board.left() and not moved and (self.trouble or attempts > self.retries):
                    yield Halted(f"{self.trouble or 'the pilots ended'}, and nothing was trained", 1)
                    return
        finally:
            if submission is not None:
                forget(self.store, submission)

    @property
    def store(self) -> Store:
        """Of the sweep."""
        return self.prepared.store

    @property
    def retries(self) -> int:
        """Attempts in a row without progress."""
        return self.prepared.sweep.on_error.retries

    def _round(self, submission: Submission, stopping: Callable[[], int]) -> Iterator[Event | Halted | Said]:
        """Start all pilots and follow them until the last has ended."""
        self.nodes = {node.id: node.address for node in self.cluster.nodes()}
        self.trouble, asked, stopped = "", 0, False
        self.watched.clear()
        deadline = float("inf")
        for index in range(submission.tasks):
            self._start(submission, index)
        while self.cluster.tasks:
            yield from self.board.look()
            yield from self._nodes(submission)
            for ended in self.cluster.ended():
                yield from self._ended(submission, ended, again=not asked)
            if not record_of(self.store, submission).exists() and not stopped:
                stopped = True
                yield Said("  Stopping: the sweep was stopped from another machine")
            held = {*self.cluster.tasks.values()}
            if self._over:  # those that have begun end by themselves
                self.cluster.cancel({i for i in held if self._said(submission, i) == self.watched[i].said})
            level = 2 if time.monotonic() > deadline else max(min(stopping(), 2), int(stopped))
            if level > asked:
                self.cluster.cancel(held, force=level == 2)
                deadline = min(deadline, time.monotonic() + CHECKPOINT_SECONDS)
                asked = level
            time.sleep(pilots.STORE_SECONDS if self.cluster.tasks else 0.0)
        yield from self.board.look()
        if stopped:
            yield Halted("the sweep was stopped from another machine", 1)

    @property
    def _over(self) -> bool:
        """Whether nothing is left to train, and nobody trains."""
        return not self.board.left() and not self.board.running

    def _said(self, submission: Submission, index: int) -> int:
        """How much a pilot has said, every start of it [bytes]; each begins with a line."""
        log = log_of(self.store, submission, index)
        return log.stat().st_size if log.exists() else 0

    def _start(self, submission: Submission, index: int, deaths: int = 0) -> None:
        self.watched[index] = _Watched(self.board.progress(), deaths, self._said(submission, index))
        record, log = record_of(self.store, submission).absolute(), log_of(self.store, submission, index).absolute()
        name = f"{submission.name}-{index}"
        self.cluster.start(index, name, ["pilot", str(record)], self.prepared.sweep.search, log)

    def _nodes(self, submission: Submission) -> Iterator[Said]:
        """Nodes that have left since the last look, and those that have joined, for which there are more pilots."""
        now = {node.id: node.address for node in self.cluster.nodes()}
        before, self.nodes = self.nodes, now
        for node in sorted(before.keys() - now.keys()):
            yield Said(f"  node {before[node]} ({node[:6]}) is gone", "red")
        if before.keys() - now.keys() and not self.cluster.fits():
            yield Said(f"  no node is left that has {self.cluster.lacks()}; the pilots wait for one", "red")
        for node in sorted(now.keys() - before.keys()):
            yield Said(f"  node {now[node]} ({node[:6]}) has joined")
        if now.keys() - before.keys() and self.board.left() and (room := self.cluster.fits()):
            wanted = fleet(self.prepared, self.board.left(), room).pilots
            going = len(self.cluster.tasks)
            for index in range(len(self.watched), len(self.watched) + wanted - going):
                self._start(submission, index)

    def _ended(self, submission: Submission, ended: Ended, *, again: bool) -> Iterator[Halted | Said]:
        """Say how a pilot ended, and start another in its place if it died."""
        pilot = f"pilot {ended.index}"
        if ended.cancelled or ended.code in (0, AGAIN) or (ended.code is not None and not again):
            return
        if ended.failed or (ended.code or 0) > 0:
            said = ended.why or last_words(log_of(self.store, submission, ended.index))
            self.trouble = f"{pilot} failed: {said}" if said else f"{pilot} failed with code {ended.code}"
            yield Said(f"  {self.trouble}", "red")
            return
        why = ended.why or f"was killed by {signal.Signals(-(ended.code or 0)).name}"
        watched = self.watched[ended.index]
        deaths = 1 if self.board.progress() > watched.progress else watched.deaths + 1
        if not again or self._over:
            yield Said(f"  {pilot} {why}", "red")
        elif deaths > self.retries:
            self.trouble = f"{pilot} {why} {counted(deaths, 'time')} in a row"
            yield Said(f"  {self.trouble}", "red")
        else:
            yield Said(f"  {pilot} {why}; another takes its place", "red")
            self._start(submission, ended.index, deaths)

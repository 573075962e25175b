"""`scalectl evaluate`: finished runs judged on further data, without training them again."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scalectl.commands.target import find_target
from scalectl.core.errors import NothingMatched, StoreError, UsageError
from scalectl.core.job import State
from scalectl.core.names import escaped, is_name, shown
from scalectl.core.rows import HELD_OUT, LOSS, TRAIN
from scalectl.core.run import RunConfig
from scalectl.core.units import counted
from scalectl.store.evaluations import JudgedOn, check_name, evaluated, take_name
from scalectl.store.index import refresh
from scalectl.store.sweeps import load_sweep
from scalectl.tasks import TASKS
from scalectl.tasks.tokenizer import BYTES
from scalectl.tasks.windows import Description

if TYPE_CHECKING:  # torch takes two seconds
    from scalectl.train.judge import Bench

_TAKEN = re.compile(rf"{HELD_OUT}|{TRAIN}|(.*-)?subtask[0-9]+")  # splits of runs, and of the subtasks of sets

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Evaluated:
    """What was judged. set: the name of the data, a split of its runs from now on; source, tokens: what they are.

    judged, known: runs, now and before; without: runs that are done and kept no parameters; losses: least and largest
    of all of them [nats/token].
    """

    sweep: str
    set: str
    source: str
    tokens: int
    judged: int
    known: int
    without: int
    losses: tuple[float, float]


def run(
    named: str | None,
    results: str | None,
    tell: Tell,
    *,
    source: str | None = None,
    name: str | None = None,
    tokens: int | None = None,
    device: str | None = None,
    everything: bool = False,
) -> Evaluated:
    """Judge the finished runs of a sweep on the held-out part of some data, from the parameters that they kept.

    A run that this set has judged is left alone, so an interrupted command goes on where it was.

    Args: source: as data.source, of the kind that the runs learnt from, None for their own; name: of the set, from the
    source if None; tokens: of it that are judged, as many as in training if None; device: `cpu` or `cuda:INDEX`, a GPU
    if there is one; everything: also runs that only earlier versions of the sweep asked for.
    Raises: NothingMatched if no run is done or none kept its parameters; UsageError for data that the runs cannot read,
    a name that stands for other data, a device that is not there, runs that would not be judged alike, or a script's.
    """
    target = find_target(named, results)
    if target.file is not None or target.reference:
        raise UsageError(f"{target.name} has no models here", remedy="name a sweep that was trained in this store")
    store = target.store
    name = _set_name(name, source, tokens)
    stored = load_sweep(store, target.name)
    index = refresh(store)
    known = index.table.select(["run_id", "state", "D", "C_exact", "steps", "seconds"]).to_pylist()
    cells = {cell["run_id"]: cell for cell in known}
    rows = [row for row in stored.rows if everything or row["current"]]
    done = {
        row["run_id"]: json.loads(row["config"])
        for row in rows
        if (held := cells.get(row["run_id"])) and held["state"] == State.DONE
    }
    if not done:
        raise NothingMatched(f"no run of sweep {target.name} is done", remedy=f"scalectl status {target.name}")
    if any("imported" in config for config in done.values()):
        raise UsageError(
            f"{target.name} is a table that was imported: there are no models to judge",
            remedy="name a sweep that was trained in this store",
        )
    if any("command" in config for config in done.values()):
        raise UsageError(f"the runs of {target.name} are a script's", remedy="let the script judge what it kept")
    from scalectl.train import parameters
    from scalectl.train.judge import Bench
    from scalectl.train.worker import restored

    learnt: dict[str, RunConfig] = {
        run_id: restored(config) for run_id, config in done.items() if parameters.kept(store, run_id)
    }
    if not learnt:
        raise NothingMatched(
            f"no run of sweep {target.name} kept its parameters",
            remedy="write keep = true under [runtime]: the runs that are trained from then on keep theirs",
        )
    bench = Bench(store, name, device, shlex.join(sys.argv))
    asked, on, there = _asked(learnt, source, tokens)
    check_name(store, name, on)
    if on.tokens < (tokens or 0):
        tell(f"{shown(on.source)} has {there} held-out tokens: all of them judge")
    _check_sequences(bench, asked, on, there)
    if not os.access(store.root, os.W_OK):
        raise StoreError(
            "the store is read-only here",
            where=str(store.root),
            remedy="judge where it can be written, or in a copy of it",
        )
    before, losses = 0, []
    for run_id, run in asked.items():
        held = evaluated(store, name, run_id, on)
        if held is not None:
            loss = held.meta.final[f"{name}/{LOSS}"]
            before += 1
        else:
            loss = bench.judge(run, run_id, on, cells[run_id])
            tell(f"{run_id[:6]}  {name}/{LOSS} {loss:.4f}")
        losses.append(loss)
    if before:
        take_name(store, name, on)  # what says which data it stands for may have been lost
    refresh(store)
    judged, without, span = len(asked) - before, len(done) - len(asked), (min(losses), max(losses))
    return Evaluated(target.name, name, on.source, on.tokens, judged, before, without, span)


def _asked(
    learnt: Mapping[str, RunConfig], source: str | None, tokens: int | None
) -> tuple[dict[str, RunConfig], JudgedOn, int]:
    """What judges the runs, which is the same for all.

    Returns: each with the task that judges it; that set; held-out tokens that there are.
    Raises: UsageError if it would not be the same, or a model cannot read it.
    """
    moved = {run_id: _moved(run, source) for run_id, run in learnt.items()}
    if len({run.task.fingerprint for run, _ in moved.values()}) > 1:
        if source is None:
            raise UsageError("these runs learnt different data", remedy="--on SOURCE names the same for all")
        raise UsageError(
            f"{shown(source)} is other tokens to some of these runs: they do not share a tokeniser",
            remedy="sweep each tokeniser by itself; bits per byte compare them",
        )
    wanted = {tokens or run.task.held_out_tokens for run in learnt.values()}
    if len(wanted) > 1:
        raise UsageError("these runs were judged on more and less", remedy="--tokens N says on how much for all")
    there = max(about.tokens(run.context)[1] for run, about in moved.values())
    first, _ = next(iter(moved.values()))
    on = JudgedOn(source or str(first.task.options.source), first.task.fingerprint, min(*wanted, there))
    asked = {
        run_id: replace(run, task=replace(run.task, held_out_tokens=on.tokens)) for run_id, (run, _) in moved.items()
    }
    return asked, on, there


def _check_sequences(bench: Bench, asked: Mapping[str, RunConfig], on: JudgedOn, there: int) -> None:
    """Raises: UsageError if a loss would have no standard error."""
    for run in asked.values():
        found = bench.sequences(run)
        if found < 2:
            enough = there > 2 * run.context
            raise UsageError(
                f"{counted(found, 'sequence')} of {run.context} would judge some of these runs, and a loss takes two",
                where=f"{shown(on.source)}, {on.tokens} held-out tokens",
                remedy=f"--tokens {2 * run.context} or more" if enough else "name a longer text with --on",
            )


def _set_name(name: str | None, source: str | None, tokens: int | None) -> str:
    if source is None and (tokens is None or name is None):
        raise UsageError(
            "nothing to judge the runs on",
            remedy="--on SOURCE for other data, or --tokens N --as NAME for more of what they were judged on",
        )
    if name is None:
        assert source is not None
        name = re.sub(r"[^A-Za-z0-9._-]", "-", source.partition("#")[0].rpartition("/")[2].rpartition(":")[2])
        name = name.rpartition(".")[0] or name
    if not is_name(name) or _TAKEN.fullmatch(name):
        raise UsageError(f"{shown(name)} is no name for a set of data", remedy="choose one with --as, such as prose")
    return name


def _moved(run: RunConfig, source: str | None) -> tuple[RunConfig, Description]:
    """The run with the task that judges it in place of the one that it learnt, and what is known of its data.

    Raises: UsageError if its model cannot read that data; DataError if they are missing or too short.
    """
    member, options = TASKS[run.task.name], run.task.options
    if source is not None:
        if not member.accepts(source):
            raise UsageError(
                f"{shown(source)} is not what these runs learnt to read ({run.task.name})",
                remedy=f"--on {member.sources}",
            )
        options = replace(options, **_elsewhere(options, source, run))
    about = member.describe(options)
    unlike = [f"{key} {value}" for key, value in about.given.items() if getattr(run.model.options, key, value) != value]
    if unlike:
        raise UsageError(f"{shown(source)} has {', '.join(unlike)}, and the models were made for other data")
    tokenizer = getattr(options, "tokenizer", "")
    if tokenizer not in ("", BYTES) and member.describe(run.task.options).fingerprint != run.task.fingerprint:
        raise UsageError(
            f"the text or the tokeniser of the training changed: {escaped(str(tokenizer), 40)}",
            remedy="restore it: other tokens mean nothing to these models",
        )
    if source is None and about.fingerprint != run.task.fingerprint:
        raise UsageError("the data of these runs changed since they were trained", remedy="name others with --on")
    task = replace(run.task, options=options, fingerprint=about.fingerprint, origin=about.origin)
    return replace(run, task=task), about


def _elsewhere(options: Any, source: str, run: RunConfig) -> dict[str, Any]:
    """Options of a task for another source: what belonged to the old one alone goes."""
    names = {field.name for field in dataclasses.fields(options)}
    vocab = getattr(run.model.options, "vocab", None)
    fresh = {"source": source, "unique_tokens": None, "held_out": "", "vocab": vocab}
    return {name: value for name, value in fresh.items() if name in names}

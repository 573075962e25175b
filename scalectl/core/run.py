"""What a run is: its science, and nothing of where or how fast it is computed.

`run_id` hashes the full resolved `RunConfig`. Two rules keep ids stable:
numbers are canonical (1 and 1.0 are one number, the order of keys is free), and a field added later
declares with `new_field(as_before=...)` the value that older records imply, so that it leaves the
hash of every older run as it was.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scalectl.core.cost import Convention, Ledger, ledger_of_record

ID_DIGITS = 16  # hexadecimal: 64 bits; at 10^6 runs the chance of one collision is 3e-8


def new_field(*, default: Any = dataclasses.MISSING, as_before: Any) -> Any:
    """A field added after the first release.

    Args: default: what new runs get; as_before: what runs recorded without the field did.
    """
    return dataclasses.field(default=default, metadata={"as_before": as_before})


def unhashed(default: Any) -> Any:
    """A field that changes what is recorded on the way, never a number that is."""
    return dataclasses.field(default=default, metadata={"hashed": False})


def hashed_as(what: Callable[[Any], Any]) -> Any:
    """A field of which only a part is identity: `what(value)` is hashed in its place."""
    return dataclasses.field(metadata={"hashed_as": what})


@dataclass(frozen=True)
class Member:
    """A member of a family (a model, an optimiser, ...): name, version of its mathematics, its own options."""

    name: str
    version: int
    options: Any  # the member's own frozen dataclass

    @functools.cached_property
    def identity(self) -> str:
        """Its part of the text that a run id is the digest of, worked out once for all runs that share it."""
        return _text(self)

    def __hash__(self) -> int:
        return hash(self.identity)


@dataclass(frozen=True)
class Foreign(Member):
    """A model that is somebody's own code, named `package.module:NAME`, as it was when its run was planned.

    fingerprint: digest of its source, part of the identity; ledger: what it was found to hold and to cost, recorded so
    that whoever only reads need not import it.
    """

    fingerprint: str
    ledger: Ledger = dataclasses.field(metadata={"hashed": False})

    __hash__ = Member.__hash__


class FreeOptions:
    """Options whose names only somebody's own code knows; two of them are equal if they hold the same."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FreeOptions) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(sorted(vars(self).items())))


def free_options(fields: Mapping[str, tuple[Any, Any]]) -> type[Any]:
    """A frozen dataclass of options. fields: name -> (type, default or MISSING of dataclasses)."""
    held = sorted(fields.items(), key=lambda item: item[1][1] is not dataclasses.MISSING)  # defaults come last
    with_defaults = [(name, kind, dataclasses.field(default=default)) for name, (kind, default) in held]
    return dataclasses.make_dataclass("Options", with_defaults, bases=(FreeOptions,), frozen=True, eq=False)


@dataclass(frozen=True)
class Task:
    """What is learned: the member, the exact data by fingerprint, and how much held-out data judges it.

    fingerprint: digest of the data (or of the generator) as the run saw it; part of the identity.
    origin: what else names the data, the Python version for `stdlib`; recorded, covered by the fingerprint.
    held_out_tokens: size of the fixed held-out set [tokens].
    """

    name: str
    version: int
    options: Any
    fingerprint: str
    held_out_tokens: int
    origin: str = unhashed("")

    @functools.cached_property
    def identity(self) -> str:
        """As that of a member."""
        return _text(self)

    def __hash__(self) -> int:
        return hash(self.identity)


@dataclass(frozen=True)
class Evaluation:
    """When a run measures itself. What it measures on is part of the task.

    every: steps between evaluations; the last step is always evaluated.
    """

    every: int = 50
    sets: tuple[str, ...] = ("held-out",)


@dataclass(frozen=True)
class RunConfig:
    """One run. steps: optimiser steps; sequences: sequences in a batch, each of the model's context."""

    model: Member
    task: Task
    optim: Member
    schedule: Member
    steps: int
    sequences: int
    seed: int
    precision: str
    evaluation: Evaluation = unhashed(Evaluation())  # noqa: RUF009 frozen, so sharing it is safe

    @property
    def context(self) -> int:
        """Tokens in a sequence."""
        return int(self.model.options.context)

    @property
    def answers(self) -> int:
        """Tokens at the end of a sequence that alone are judged, 0 for all targets."""
        return int(getattr(self.model.options, "answers", 0))  # models that know nothing of them judge all

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of a sequence that meet in one layer: all of them, those that are judged, a prompt, patches."""
        return tuple(getattr(self.model.options, "lengths", (self.context, self.answers)))

    @property
    def batch_tokens(self) -> int:
        """Tokens in a batch."""
        return self.sequences * self.context

    @property
    def tokens(self) -> int:
        """Training tokens, D."""
        return self.steps * self.batch_tokens

    @functools.cached_property
    def run_id(self) -> str:
        """Identity of the run: 16 hexadecimal digits."""
        return _digest(self)

    def __hash__(self) -> int:
        return hash(self.run_id)


Pairs = tuple[tuple[str, Any], ...]
"""Names and values, sorted by name."""


@dataclass(frozen=True)
class CommandRun:
    """A run of somebody's own script, a process that scalectl starts and listens to.

    command: program and arguments, with `{out}` where the run's own folder comes; params: of the sweep file; env: what
    its environment is given beside what it inherits; source: digest of its code; rows: expression that finds rows in
    what it prints, empty for none. template: the command before its parameters were put in; files: whose digest is the
    source, relative to the folder in which it runs; keep: whether its own folder outlives it.
    N [parameters], D [tokens], C [FLOP], steps: as the sweep file says, None where only the script knows; convention:
    how N counts.
    """

    command: tuple[str, ...]
    params: Pairs
    env: Pairs
    source: str
    rows: str
    template: str = unhashed("")
    files: tuple[str, ...] = unhashed(())
    keep: bool = unhashed(False)
    N: float | None = unhashed(None)
    D: float | None = unhashed(None)
    C: float | None = unhashed(None)
    steps: int | None = unhashed(None)
    convention: Convention = unhashed("non_embedding")  # noqa: RUF009 a text

    @functools.cached_property
    def run_id(self) -> str:
        """Identity of the run: 16 hexadecimal digits."""
        return _digest(self)


Run = RunConfig | CommandRun


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _digest(run: Run) -> str:
    """SHA-256 of the run's canonical text: that of `canonical(run)`, put together from those of its parts."""
    parts = {
        name: held.identity if isinstance(held, Member | Task) else _text(held) for name, held in _hashed(run).items()
    }
    text = ",".join(f'"{name}":{parts[name]}' for name in sorted(parts))
    return hashlib.sha256(b"scalectl-run-1\n{" + text.encode() + b"}").hexdigest()[:ID_DIGITS]


def _text(value: Any) -> str:
    return _ENCODER.encode(canonical(value))


def _hashed(value: Any) -> dict[str, Any]:
    """The fields of a dataclass that are identity, as they enter it."""
    found = {}
    for field in value.__dataclass_fields__.values():
        held = getattr(value, field.name)
        if field.metadata:
            if field.metadata.get("hashed", True) is False:
                continue
            if "as_before" in field.metadata and held == field.metadata["as_before"]:
                continue
            held = field.metadata.get("hashed_as", _itself)(held)
        found[field.name] = held
    return found


def canonical(value: Any) -> Any:
    """Plain JSON data that is equal for equal science. NaN and infinities raise ValueError."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: canonical(held) for name, held in _hashed(value).items()}
    if isinstance(value, Mapping):
        return {str(key): canonical(held) for key, held in value.items()}
    if isinstance(value, tuple | list):
        return [canonical(held) for held in value]
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no place in an identity")
        return int(value) if value.is_integer() else value
    raise TypeError(f"{type(value).__name__} has no place in an identity")


def _itself(value: Any) -> Any:
    return value


def record(run: Run) -> dict[str, Any]:
    """The whole config as plain JSON data, unhashed fields included; `restore` reads it back."""
    return dataclasses.asdict(run)


def restore(data: Mapping[str, Any], options: Mapping[str, Mapping[str, type]]) -> Run:
    """A run from its record.

    Args: data: from `record`, perhaps written by an older version: a missing field takes its `as_before`;
    options: for each of model, task, optim, schedule: member name -> options type. A foreign model needs none, its
    record says all.
    """
    parts: dict[str, Any] = dict(data)
    if "command" in parts:
        pairs = {name: tuple((key, held) for key, held in parts[name]) for name in ("params", "env")}
        script: CommandRun = _build(CommandRun, parts | pairs)
        return script
    for part in ("model", "task", "optim", "schedule"):
        held = dict(parts[part])
        if part == "model" and "ledger" in held:
            known = free_options(dict.fromkeys(held["options"], (Any, dataclasses.MISSING)))
            held |= {"options": known(**held["options"]), "ledger": ledger_of_record(held["ledger"])}
            parts[part] = _build(Foreign, held)
            continue
        held["options"] = _build(options[part][held["name"]], held["options"])
        parts[part] = _build(Task if part == "task" else Member, held)
    parts["evaluation"] = _build(Evaluation, parts.get("evaluation", {}))
    run: RunConfig = _build(RunConfig, parts)
    return run


def _build(kind: type, data: Mapping[str, Any]) -> Any:
    given = {}
    for field in dataclasses.fields(kind):
        if field.name in data:
            held = data[field.name]
            given[field.name] = tuple(held) if isinstance(held, list) else held
        elif "as_before" in field.metadata:
            given[field.name] = field.metadata["as_before"]
    return kind(**given)


SEED = "train.seed"


def param_column(name: str) -> str:
    """The column of a script's parameter; one named seed tells repeats of a run apart, like the seed of a model."""
    return SEED if name == "seed" else f"params.{name}"


def flat(run: Run) -> dict[str, Any]:
    """The run as columns named like the keys of a sweep file; what `--where`, `--by` and constraints read."""
    if isinstance(run, CommandRun):
        params = {param_column(name): held for name, held in run.params}
        env = {f"run.env.{name}": held for name, held in run.env}
        return params | env | {"run.command": run.template, "run.source": run.source}
    columns: dict[str, Any] = {"model.family": run.model.name}
    columns |= _options("model", run.model.options)
    columns["model.context"] = run.context
    if isinstance(run.model, Foreign):
        columns["model.fingerprint"] = run.model.fingerprint
    columns |= _options("data", run.task.options)
    columns |= {"data.task": run.task.name, "data.fingerprint": run.task.fingerprint, "data.origin": run.task.origin}
    columns |= {"train.optimizer": run.optim.name, "train.schedule": run.schedule.name}
    columns |= _options("train", run.optim.options)
    columns |= _options("train", run.schedule.options)
    columns |= {
        "train.steps": run.steps,
        "train.tokens": run.tokens,
        "train.batch_tokens": run.batch_tokens,
        "train.seed": run.seed,
        "train.precision": run.precision,
        "eval.tokens": run.task.held_out_tokens,
        "eval.every": run.evaluation.every,
    }
    return columns


def _options(table: str, options: Any) -> dict[str, Any]:
    return {f"{table}.{name}": getattr(options, name) for name in options.__dataclass_fields__}

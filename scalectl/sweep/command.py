"""Runs of somebody's own script: what a grid of its parameters resolves to, cell by cell.

A cell is one choice of every axis; rules of parameters and the formulas for N, D, C and steps are worked out after the
axes, in the order in which they need one another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scalectl.core.cost import Convention
from scalectl.core.run import CommandRun, Pairs, param_column
from scalectl.core.template import put
from scalectl.sweep.block import Fault, Grid, Setting, Wrong, ruled
from scalectl.sweep.fields import Field

OUT = "out"  # the place of the run's own folder, known when it starts
PARAMS = "params"  # the place of all parameters, as JSON
COUNTS = {
    "run.N": Field("run.N", "number", None),
    "run.D": Field("run.D", "number", None),
    "run.C": Field("run.C", "number", None),
    "run.steps": Field("run.steps", "integer", None),
}
"""What a value or a formula can say of a run."""


@dataclass(frozen=True)
class Script:
    """[run] of a sweep file.

    command, env: templates; files: its code, relative to the folder in which it runs, source their digest; rows:
    expression for what it prints, empty for none; convention: how N counts; keep: whether `{out}` outlives a run.
    """

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: tuple[str, ...]
    source: str
    rows: str
    convention: Convention
    keep: bool


@dataclass(frozen=True)
class CommandBlock(Grid):
    """A grid of a script's parameters. counts: value or formula of each of COUNTS that the file gives."""

    script: Script
    counts: Mapping[str, Setting]


@dataclass(frozen=True)
class CommandCell:
    """One planned run. values: of its parameters, by column."""

    block: CommandBlock
    values: Mapping[str, Any]
    run: CommandRun

    def value(self, key: str) -> Any:
        """What a parameter is for this run; None for one that its script does not have."""
        return self.values.get(key)


def circle(block: CommandBlock) -> tuple[Setting, ...]:
    """The first circle of rules and formulas that read one another; () if there is none."""
    rules = {**{held.key: held for held in block.settings.values()}, **block.counts}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> tuple[str, ...]:
        if name in trail:
            return (*trail[trail.index(name) :], name)
        below = rules[name].rule_names.values() if name in rules and name not in done else ()
        for other in below:
            found = visit(other, (*trail, name))
            if found:
                return found
        done.add(name)
        return ()

    found = next(filter(None, (visit(name, ()) for name in rules)), ())
    return tuple(rules[name] for name in found)


def command_cells(block: CommandBlock) -> Iterator[CommandCell | Fault]:
    """Resolve every cell, in the file's order, the last axis fastest; what is wrong with it where it cannot be."""
    for chosen in block.picks():
        try:
            yield _Resolution(block, {key: value for key, (value, _) in chosen.items()}).cell()
        except Wrong as wrong:
            yield wrong.fault(block, chosen)


class _Resolution:
    """The values of one cell, worked out when first asked for. Rules have no circle: `circle` was asked before."""

    def __init__(self, block: CommandBlock, chosen: Mapping[str, Any]) -> None:
        self.block = block
        self.settings = {held.key: held for held in block.settings.values()} | dict(block.counts)
        self.fields = {held.key: held for held in block.fields.values()} | COUNTS
        self.known = dict(chosen)

    def get(self, name: str) -> Any:
        if name not in self.known:
            setting = self.settings[name]
            if setting.rule is None:
                self.known[name] = setting.values[0]
            else:
                values = {written: self.get(full) for written, full in setting.rule_names.items()}
                self.known[name] = ruled(setting, self.fields[name], values)
        return self.known[name]

    def cell(self) -> CommandCell:
        script = self.block.script
        names = [held.key.removeprefix("params.") for held in self.block.settings.values()]
        params: Pairs = tuple((name, self.get(f"params.{name}")) for name in sorted(names))
        texts = {name: argument(value) for name, value in params} | {PARAMS: json.dumps(dict(params))}
        counts = {key.removeprefix("run."): self.get(key) if key in self.block.counts else None for key in COUNTS}
        run = CommandRun(
            command=tuple(put(part, texts) for part in script.command),
            params=params,
            env=tuple((name, put(part, texts)) for name, part in sorted(script.env)),
            source=script.source,
            rows=script.rows,
            template=" ".join(script.command),
            files=script.files,
            keep=script.keep,
            convention=script.convention,
            **counts,
        )
        return CommandCell(self.block, {param_column(name): held for name, held in params}, run)


def argument(value: Any) -> str:
    """A parameter as an argument: numbers as Python writes them, true and false as JSON does."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) and math.isfinite(value) else str(value)


@dataclass(frozen=True)
class Finished:
    """A run of the same script that is done. seconds: of its process, over all attempts."""

    params: Mapping[str, Any]
    flops: float | None
    seconds: float


class Durations:
    """Seconds that runs of a script will take, by those that are done.

    Those of the runs that differ from it by seed alone; else on the line of seconds over FLOPs, start-up included, as
    far as they are known; else the mean of all. Ours: a script has no shapes that anybody could measure.
    """

    def __init__(self, finished: Sequence[Finished]) -> None:
        alike: dict[frozenset[tuple[str, Any]], list[float]] = {}
        for run in finished:
            alike.setdefault(_unseeded(run.params), []).append(run.seconds)
        self.alike = {params: _mean(seconds) for params, seconds in alike.items()}
        self.mean = _mean([run.seconds for run in finished]) if finished else None
        known = [(run.flops, run.seconds) for run in finished if run.flops is not None]
        self.line = _line(known) if known else None

    def expected(self, params: Mapping[str, Any], flops: float | None) -> float | None:
        """Of one run, None where no finished run says. params: by name; flops: C, else 6 N D."""
        seconds = self.alike.get(_unseeded(params))
        if seconds is not None or flops is None or self.line is None:
            return self.mean if seconds is None else seconds
        start, slope = self.line
        return start + slope * flops


def _unseeded(params: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset((name, held) for name, held in params.items() if name != "seed")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _line(known: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Start [s] and slope [s/FLOP] of seconds over FLOPs by least squares; neither is below zero."""
    mean_flops, mean_seconds = (_mean([pair[axis] for pair in known]) for axis in (0, 1))
    spread = sum((x - mean_flops) * (x - mean_flops) for x, _ in known)
    slope = sum((x - mean_flops) * (y - mean_seconds) for x, y in known) / spread if spread else math.inf
    if slope <= 0:  # start-up is all that shows
        return mean_seconds, 0.0
    start = mean_seconds - slope * mean_flops
    return (start, slope) if start >= 0 else (0.0, mean_seconds / mean_flops)

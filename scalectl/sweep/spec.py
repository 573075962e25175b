"""A sweep file, from TOML to a frozen `Sweep`; every mistake at once, each with its line.

This is the door: outside it are dicts and text, inside there are only types. Values are checked against the members'
own Options, cross-field rules by the members' own `problems`, and every cell of every grid is resolved before anything
starts. Not pydantic: which keys exist depends on the members, a value may be an axis or a rule, and an error has to
know its line; what would be left for it is the check of one value (`fields.Field`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from scalectl.core.errors import DataError, Problem, SweepFileError, UsageError
from scalectl.core.names import shown
from scalectl.core.run import Evaluation
from scalectl.core.units import counted
from scalectl.models import MODELS, Model
from scalectl.optim import OPTIMIZERS
from scalectl.sweep.assign import assign
from scalectl.sweep.block import HORIZONS, Block, Cell, Fault, Grid, Setting, cells, cycle, readable
from scalectl.sweep.command import CommandBlock
from scalectl.sweep.draft import Draft, Entry
from scalectl.sweep.fields import MISSING, Field, fields_of
from scalectl.sweep.keys import SCIENCE, label_of, to_write, train_fields
from scalectl.sweep.locate import Path
from scalectl.sweep.members import Members
from scalectl.sweep.mup import BaseWidths
from scalectl.sweep.overrides import recorded_folder, recorded_overrides
from scalectl.sweep.script import ScriptReader
from scalectl.sweep.sweep import OnError, Runtime, Sweep
from scalectl.sweep.tables import (
    budget_of,
    constraints_of,
    evaluation_of,
    ray_of,
    slurm_of,
    table_of,
    tables_of,
    tables_of_blocks,
    title_of,
    unknown,
)
from scalectl.sweep.values import check_zips, horizon_of, setting_of
from scalectl.tasks import TaskMember
from scalectl.tasks.windows import Description

MAX_BYTES = 250_000  # of a sweep file; ours: 10^4 listed values fit, and any content is answered within a second
MAX_RUNS = 100_000  # without --max-runs


def load(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    max_runs: int = MAX_RUNS,
    recorded: bool = False,
) -> Sweep:
    """Read a sweep file.

    Args: overrides: `KEY=VALUE` each, the value as in TOML (a bare word is a text); they win over the file and its
    blocks, and another run length replaces the file's; max_runs: refuse a grid of more cells, before it is built;
    recorded: the file is that of a store: what it remembers of its overrides holds, before those given here, and its
    code is where it was, if that folder is there.
    Raises: UsageError if there is no such file; SweepFileError with every problem that was found.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise UsageError(
            f"cannot read the sweep file {shown(name)}: {reason}", remedy="scalectl init writes one"
        ) from None
    if len(data) > MAX_BYTES:
        problem = Problem(None, f"the file is larger than {MAX_BYTES // 1000} kB", "data belong into data.source")
        raise SweepFileError(name, (problem,))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SweepFileError(name, (Problem(line, "these bytes are not UTF-8", "save the file as UTF-8"),)) from None
    remembered = recorded_overrides(text)
    if recorded:
        folder = recorded_folder(text)
        beside = folder if os.path.isdir(folder) else ""
        return parse_sweep(text, path=name, overrides=(*remembered, *overrides), max_runs=max_runs, beside=beside)
    sweep = parse_sweep(text, path=name, overrides=overrides, max_runs=max_runs)
    if remembered:
        note = "the --set lines at the end of the file are comments here; they hold where the store's own file is read"
        sweep = replace(sweep, notes=(*sweep.notes, note))
    return sweep


def parse_sweep(
    text: str,
    *,
    path: str = "sweep.toml",
    overrides: Sequence[str] = (),
    max_runs: int = MAX_RUNS,
    beside: str = "",
) -> Sweep:
    """`load`, from text; path is what errors call the file; beside: folder of its code, "" for that of the path."""
    reader = _Reader(Draft(text, path, tuple(overrides), beside), max_runs)
    with contextlib.closing(reader.members):
        return reader.sweep()


class _Reader:
    """Reads one file, step by step."""

    def __init__(self, draft: Draft, max_runs: int) -> None:
        self.draft = draft
        self.max_runs = max_runs
        self.members = Members(draft)
        self.script = ScriptReader(draft)
        self.base_widths = BaseWidths(draft)
        self.notes: list[str] = []
        self.described: dict[Any, Description] = {}

    def sweep(self) -> Sweep:
        top = self.draft.toml()
        top_entries = {key: Entry(raw, (key,)) for key, raw in top.items()}
        tables = tables_of(self.draft, top_entries)
        blocks = tables_of_blocks(self.draft, top_entries)
        assign(self.draft, self.members, top_entries, tables, blocks)
        name, question = title_of(self.draft, top_entries)
        runtime = table_of(self.draft, tables, "runtime", fields_of(Runtime, "runtime", word="auto"))
        on_error = table_of(self.draft, tables, "on_error", fields_of(OnError, "on_error"))
        budget = budget_of(self.draft, tables)
        slurm = slurm_of(self.draft, tables)
        ray = ray_of(self.draft, tables)
        evaluation, held_out = evaluation_of(self.draft, tables)
        built: list[Block] = []
        scripts: list[CommandBlock] = []
        if "run" in top_entries:
            self.only_script(top_entries)
            scripts = self.script.blocks(tables, blocks)
        elif "params" in top_entries:
            what = "[params] are those of somebody's script"
            self.draft.problem(("params",), what, "name it in [run] command, or write [model]", key=True)
        else:
            built = self.blocks(tables, blocks)
        self.sized([*built, *scripts])
        constraints = constraints_of(self.draft, tables, [*built, *scripts])
        self.draft.fail()
        resolved = self.resolve(built, evaluation, held_out)
        commands = self.script.cells(scripts)
        self.draft.fail()
        return Sweep(
            name=name,
            question=question,
            path=self.draft.path,
            text=self.draft.text,
            overrides=self.draft.overrides,
            blocks=(*built, *scripts),
            cells=tuple(resolved),
            commands=tuple(commands),
            constraints=constraints,
            runtime=Runtime(**runtime),
            budget=budget,
            on_error=OnError(**on_error),
            slurm=slurm,
            ray=ray,
            notes=(*self.notes, *self.script.notes),
            search=self.script.folders or self.members.search,
        )

    def only_script(self, top: Mapping[str, Entry]) -> None:
        """Report tables that say nothing of a script."""
        for table in (*SCIENCE, "eval"):
            if table in top:
                what = f"[{table}] means nothing beside [run]: a script has its own"
                self.draft.problem(top[table].path, what, "what it takes belongs into [params]", key=True)

    def blocks(
        self,
        tables: Mapping[str, Mapping[str, Entry]],
        blocks: Sequence[Mapping[str, Mapping[str, Entry]]],
    ) -> list[Block]:
        """The grids of the file; the tables above the blocks are one of them if they are complete, else only shared."""
        base = {table: dict(tables[table]) for table in SCIENCE}
        found: list[Block | None] = []
        if not blocks or self.complete(base):
            found.append(self.block(None, base))
        for index, own in enumerate(blocks):
            merged = {table: {**base[table], **own.get(table, {})} for table in SCIENCE}
            horizons = [name.removeprefix("train.") for name in HORIZONS]
            if any(name in own.get("train", {}) for name in horizons):  # a block's length replaces the shared one
                for name in horizons:
                    if name not in own["train"]:
                        merged["train"].pop(name, None)
            found.append(self.block(index, merged))
        self.base_widths.check()
        built = [block for block in found if block is not None]
        return built

    def sized(self, built: Sequence[Grid]) -> None:
        """Count the grids before any is built."""
        total = sum(block.size for block in built)
        if total > self.max_runs:
            longest = max((s for b in built for g in b.axes for s in g), key=lambda s: len(s.values))
            what = f"the grids have {total:,} runs, more than {self.max_runs:,}"
            self.draft.problem(longest.path[:-1], what, "shorten an axis, or allow it with --max-runs", key=True)
        if len(built) > 1:
            names = ["above the blocks" if b.index is None else f"[[block]] {b.index}" for b in built]
            self.notes.append("runs by grid: " + ", ".join(f"{b.size} {n}" for b, n in zip(built, names, strict=True)))

    def complete(self, base: Mapping[str, Mapping[str, Entry]]) -> bool:
        """Whether the tables above the blocks say all that a run needs."""
        required = {("model", "family")}
        for table, key, members, default in (
            ("model", "family", self.members.models(base["model"].get("family")), None),
            ("train", "optimizer", OPTIMIZERS, "adamw"),
        ):
            entry = base[table].get(key)
            name = default if entry is None else entry.raw
            if isinstance(name, str) and name in members:
                member = members[name]
                given = self.members.given(member, base["data"].get("source")) if isinstance(member, Model) else ()
                held = fields_of(member.options, table, without=given)
                required |= {(table, f.key.split(".", 1)[1]) for f in held.values() if f.default is MISSING}
        length = any(name.removeprefix("train.") in base["train"] for name in HORIZONS)
        return length and all(key in base[table] for table, key in required)

    def block(self, index: int | None, raw: Mapping[str, Mapping[str, Entry]]) -> Block | None:
        before = len(self.draft.problems)
        family = raw["model"].get("family")
        model = self.members.member(family, "model.family", self.members.models(family), None)
        task = self.members.task(raw["data"].get("source"))
        optimizer = self.members.member(raw["train"].get("optimizer"), "train.optimizer", OPTIMIZERS, "adamw")
        raw = self.base_widths.plain(raw, model, optimizer)
        if model is not None and optimizer is not None and model.fingerprint and optimizer.turned:
            what = f"train.optimizer: {optimizer.name} needs the fan-in of matrices, and {model.name} does not say it"
            others = [name for name, held in OPTIMIZERS.items() if not held.turned]
            self.draft.problem(raw["train"]["optimizer"].path, what, f"use {' or '.join(others)}")
        if model is not None and task is not None and family is not None and task.kind not in model.reads:
            what = f"model.family: {model.name} reads {' or '.join(model.reads)}, and these data are {task.kind}"
            others = [name for name, held in MODELS.items() if task.kind in held.reads]
            self.draft.problem(family.path, what, f"families for {task.kind}: {', '.join(others)}")
            return None
        fields: dict[str, Field] = {}
        if model is not None:
            fields["model.family"] = Field("model.family", "choice", model.name, (*MODELS, model.name))
            given = self.members.given(model, raw["data"].get("source"))
            fields |= fields_of(model.options, "model", without=given)
        if task is not None:
            fields |= fields_of(task.options, "data")
            fields["data.source"] = Field("data.source", "text", "stdlib")
        if optimizer is not None:
            fields |= train_fields() | fields_of(optimizer.options, "train")
        settings: dict[str, Setting] = {}
        names = readable(fields)
        for table, member in zip(SCIENCE, (model, task, optimizer), strict=True):
            if member is None:
                continue
            own = {key: held for key, held in fields.items() if key.startswith(f"{table}.")}
            for key, entry in raw[table].items():
                if f"{table}.{key}" not in own:
                    unknown(self.draft, entry, table, key, own)
                    continue
                setting = setting_of(self.draft, own[f"{table}.{key}"], entry, names)
                if setting is not None:
                    settings[setting.key] = setting
            missing = [key for key, held in own.items() if held.default is MISSING and key not in HORIZONS]
            for full in missing:
                if full.split(".", 1)[1] not in raw[table] and not self.draft.broken:
                    at: Path = (
                        (table,) if index is None or table not in self.block_tables(index) else ("block", index, table)
                    )
                    self.draft.problem(
                        at, f"[{table}] {full.split('.', 1)[1]} is missing", to_write(own[full]), key=True
                    )
        horizon = horizon_of(self.draft, raw["train"])
        check_zips(self.draft, settings)
        if len(self.draft.problems) > before or model is None or task is None or optimizer is None or horizon is None:
            return None
        built = Block(index, fields, settings, model, task, optimizer, horizon)
        circle = cycle(built)
        if circle:
            self.draft.problem(settings[circle[0]].path, f"{circle[0]}: rules in a circle, {' -> '.join(circle)}")
            return None
        return built

    def block_tables(self, index: int) -> set[str]:
        return {str(path[2]) for path in self.draft.places.keys if path[:2] == ("block", index) and len(path) > 2}

    def resolve(self, blocks: Sequence[Block], evaluation: Evaluation, held_out: int) -> list[Cell]:
        found = []
        for block in blocks:
            try:
                broken: dict[str, Fault] = {}  # models of the user's own, by what is wrong with them
                for cell in cells(block, evaluation, held_out, self.describe):
                    if not isinstance(cell, Fault):
                        found.append(cell)
                    elif cell.key == "model.family":
                        broken.setdefault(cell.what, cell)
                    else:
                        self.draft.problem(cell.path, f"{label_of(cell.path, cell.key)}: {cell.what}", cell.remedy)
                if broken:
                    first, *more = broken.values()
                    others = f"; {counted(len(more), 'other model')} of the grid fail too" if more else ""
                    self.draft.problem(
                        first.path, f"{label_of(first.path, first.key)}: {first.what}{others}", first.remedy
                    )
            except SweepFileError:
                raise
            except UsageError as error:
                key = f"data.{error.key if isinstance(error, DataError) else 'source'}"
                at = block.settings.get(key) or block.settings.get("data.source")
                what = " ".join(part for part in (error.what, error.where) if part)
                self.draft.problem(at.path if at else ("data",), f"{key}: {what}", error.remedy)
        return found

    def describe(self, member: TaskMember, options: Any) -> Description:
        if (member.name, options) not in self.described:
            self.described[member.name, options] = member.describe(options)
        return self.described[member.name, options]

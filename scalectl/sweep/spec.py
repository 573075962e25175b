"""A sweep file, from TOML to a frozen `Sweep`; every mistake at once, each with its line.

This is the door: outside it are dicts and text, inside there are only types. Values are checked against the members'
own Options, cross-field rules by the members' own `problems`, and every cell of every grid is resolved before anything
starts. Not pydantic: which keys exist depends on the members, a value may be an axis or a rule, and an error has to
know its line; what would be left for it is the check of one value (`fields.Field`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scalectl.core.cost import BYTES
from scalectl.core.errors import DataError, ExpressionError, Problem, SweepFileError, UsageError
from scalectl.core.expression import full_name, parse
from scalectl.core.names import did_you_mean, escaped, is_name, meant, shown
from scalectl.core.run import Evaluation
from scalectl.core.units import counted
from scalectl.models import MODELS, Model, foreign_model
from scalectl.models.foreign.spec import Examiner, is_foreign
from scalectl.optim import OPTIMIZERS, Optimizer
from scalectl.optim.schedules import SCHEDULES
from scalectl.optim.schedules import Options as ScheduleOptions
from scalectl.sweep.block import DERIVED, HORIZONS, Block, Cell, Fault, Setting, cells, cycle, readable
from scalectl.sweep.fields import MISSING, Field, fields_of
from scalectl.sweep.locate import Path, Place, Places, locate, snippet
from scalectl.sweep.overrides import recorded_overrides
from scalectl.sweep.sweep import Budget, Constraint, OnError, Runtime, Sweep
from scalectl.tasks import TASKS, TaskMember
from scalectl.tasks.windows import Description

MAX_BYTES = 250_000  # of a sweep file; ours: 10^4 listed values fit, and any content is answered within a second
MAX_RUNS = 100_000  # without --max-runs
MAX_PROBLEMS = 50  # listed; ours: more is one mistake repeated
ENOUGH_PROBLEMS = 200  # reading ends here, so that a file of nonsense is answered at once
MAX_PARTS = 30  # of a dotted key; ours: tomllib takes quadratic time, and no key has more than four
HELD_OUT_TOKENS = 65_536  # default of eval.tokens; ours: a standard error near 0.5 % of the loss of text
SETS = ("held-out",)

MUP = "mup:"  # before a learning rate: of the model's muP base width, the same for all widths
SCIENCE = ("model", "data", "train")
TABLES = (*SCIENCE, "eval", "constraints", "runtime", "budget", "on_error", "slurm", "block")
TITLE = ("name", "question")
TOP = (*TITLE, *TABLES)
SLURM = {
    "account": "text",
    "partition": "text",
    "qos": "text",
    "gres": "text",
    "time": "text",
    "setup": "texts",
    "container": "text",
    "max_array": "integer",
    "signal": "text",
    "pilot": "truth",
}


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
    recorded: the file is that of a store: what it remembers of its overrides holds, before those given here.
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
        return parse_sweep(text, path=name, overrides=(*remembered, *overrides), max_runs=max_runs)
    sweep = parse_sweep(text, path=name, overrides=overrides, max_runs=max_runs)
    if remembered:
        note = "the --set lines at the end of the file are comments here; they hold where the store's own file is read"
        sweep = replace(sweep, notes=(*sweep.notes, note))
    return sweep


def parse_sweep(
    text: str, *, path: str = "sweep.toml", overrides: Sequence[str] = (), max_runs: int = MAX_RUNS
) -> Sweep:
    """`load`, from text; path is what errors call the file."""
    reader = _Reader(text, path, tuple(overrides), max_runs)
    with contextlib.closing(reader.examiner):
        return reader.sweep()


@dataclass(frozen=True)
class _Entry:
    """A raw value and the path where it stands; a path that begins with --set is an override."""

    raw: Any
    path: Path


class _Reader:
    """Reads one file. Problems are collected; a step that needs what is broken is left out."""

    def __init__(self, text: str, path: str, overrides: tuple[str, ...], max_runs: int) -> None:
        self.text = text
        self.path = path
        self.overrides = overrides
        self.max_runs = max_runs
        self.lines = text.replace("\r\n", "\n").split("\n")
        self.places = Places({}, {})
        self.problems: dict[tuple[int, str], Problem] = {}
        self.broken = False  # lines were left out, so that what is missing may stand there
        self.notes: list[str] = []
        self.with_mup = False  # some grid has a learning rate of muP
        self.deaf: list[_Entry] = []  # base widths of grids that have none
        self.described: dict[Any, Description] = {}
        beside = os.path.dirname(os.path.abspath(path))
        self.examiner = Examiner(tuple(dict.fromkeys((beside, os.getcwd()))))
        self.foreign: dict[str, Model | UsageError] = {}

    # --- problems

    def problem(self, path: Path, what: str, remedy: str | None = None, *, key: bool = False, part: int = 0) -> None:
        """One mistake. key: point at the key, not at the value; part: 1-based column inside the text value."""
        if path and path[0] == "--set":
            drawn = f"--set {escaped(self.overrides[int(path[1])], 90)}"
            self.add(Problem(None, what, remedy, drawn))
            return
        place = self.places.key(path) if key else self.places.value(path)
        if place and part:
            raw = self.lines[place.line - 1][place.column - 1 : place.column - 1 + place.width]
            if raw[:1] in "\"'" and raw[:3] not in ('"""', "'''") and "\\" not in raw:
                place = Place(place.line, place.column + part, 1)
        self.add(Problem(place.line if place else None, what, remedy, snippet(self.lines, place) if place else None))

    def add(self, problem: Problem) -> None:
        self.problems.setdefault((problem.line or 0, problem.what), problem)
        if len(self.problems) > ENOUGH_PROBLEMS:
            self.fail()

    def fail(self) -> None:
        """Raise what was found, in the file's order."""
        if self.problems:
            found = sorted(self.problems.values(), key=lambda p: p.line or 0)
            if len(found) > MAX_PROBLEMS:
                rest = Problem(None, f"and at least {len(found) - MAX_PROBLEMS} problems more")
                found = [*found[:MAX_PROBLEMS], rest]
            raise SweepFileError(self.path, tuple(found))

    # --- the whole file

    def sweep(self) -> Sweep:
        top = self.toml()
        top_entries = {key: _Entry(raw, (key,)) for key, raw in top.items()}
        tables = self.tables(top_entries)
        blocks = self.tables_of_blocks(top_entries)
        self.force(top_entries, tables, blocks)
        name, question = self.title(top_entries)
        runtime = self.table(tables, "runtime", fields_of(Runtime, "runtime", word="auto"))
        on_error = self.table(tables, "on_error", fields_of(OnError, "on_error"))
        budget = self.budget(tables)
        slurm_fields = {f"slurm.{k}": Field(f"slurm.{k}", kind, None) for k, kind in SLURM.items()}  # type: ignore[arg-type]
        slurm = self.table(tables, "slurm", slurm_fields)
        evaluation, held_out = self.evaluation(tables)
        built = self.blocks(tables, blocks)
        constraints = self.constraints(tables, built)
        self.fail()
        resolved = self.resolve(built, evaluation, held_out)
        self.fail()
        return Sweep(
            name=name,
            question=question,
            path=self.path,
            text=self.text,
            overrides=self.overrides,
            blocks=tuple(built),
            cells=tuple(resolved),
            constraints=constraints,
            runtime=Runtime(**runtime),
            budget=budget,
            on_error=OnError(**on_error),
            slurm={key: held for key, held in slurm.items() if held is not None},
            notes=tuple(self.notes),
            search=self.examiner.folders if self.foreign else (),
        )

    def toml(self) -> dict[str, Any]:
        """Parse; a line that is wrong by itself is reported and left out, so that the rest is read too."""
        lines = list(self.lines)
        dotted = _DOTTED.search(self.text)
        if dotted:
            line = self.text.count("\n", 0, dotted.start()) + 1
            self.add(
                Problem(line, f"a key of more than {MAX_PARTS} parts", None, snippet(self.lines, Place(line, 1, 1)))
            )
            self.fail()
        for _ in range(MAX_PROBLEMS):
            text = "\n".join(lines)
            try:
                parsed = tomllib.loads(text)
                self.places = locate(text)
            except RecursionError:
                self.add(Problem(None, "brackets are nested too deep"))
                self.fail()
            except ValueError as error:
                line, what, alone = self.syntax(str(error), lines)
                self.broken = True
                shown_line = Place(line, 1, max(1, len(lines[line - 1].rstrip())))
                remedy = None if alone else "a bracket or quote may be left open above"
                self.add(Problem(line, what, remedy, snippet(self.lines, shown_line)))
                if not alone:
                    self.fail()
                lines[line - 1] = ""
            else:
                return parsed
        self.fail()
        raise AssertionError("unreachable: every round reported a problem")

    def syntax(self, message: str, lines: list[str]) -> tuple[int, str, bool]:
        """Line, sentence, and whether that line is wrong whatever stands around it."""
        match = re.search(r"\(at line (\d+), column \d+\)", message)
        line = min(int(match[1]), len(lines)) if match else len(lines)
        what = re.sub(r" \(at [^)]*\)$", "", message)
        text = lines[line - 1]
        if what in ("Cannot overwrite a value", "Cannot mutate immutable namespace") or "twice" in what:
            key = text.split("=")[0].strip()
            return line, f"{escaped(key)} is given twice", True
        try:
            tomllib.loads(text)
        except RecursionError:
            return line, "brackets are nested too deep", True
        except ValueError:
            one_line = re.match(r"\s*(\[|[\w.\"'-]+\s*=)", text) is not None or "=" not in text
            opened = "'''" in text or '"""' in text or text.count("[") > text.count("]")
            return line, f"not TOML: {escaped(what[:1].lower() + what[1:], 80)}", one_line and not opened
        return line, f"not TOML: {escaped(what[:1].lower() + what[1:], 80)}", False

    def title(self, top: Mapping[str, _Entry]) -> tuple[str, str]:
        found = {"name": "", "question": ""}
        for key in found:
            entry = top.get(key)
            if entry is None:
                if key == "name" and not self.broken:
                    self.add(Problem(1, "the sweep has no name", 'write name = "my-sweep" in the first line'))
            elif not isinstance(entry.raw, str):
                self.problem(entry.path, f"{key}: {shown(entry.raw)} is not a text")
            elif key == "name" and not is_name(entry.raw):
                remedy = "letters, digits, '.', '_' and '-', at most 64, the first a letter or digit"
                self.problem(entry.path, f"name: {shown(entry.raw)} cannot name a sweep", remedy)
            elif len(entry.raw) > 1000 or not entry.raw.replace("\n", " ").isprintable():
                self.problem(entry.path, f"{key}: too long, or with characters that cannot be printed")
            else:
                found[key] = " ".join(entry.raw.split())
        return found["name"], found["question"]

    def tables(self, top: Mapping[str, _Entry]) -> dict[str, dict[str, _Entry]]:
        """Entries of every table, by table and key; unknown names at the top are problems."""
        found: dict[str, dict[str, _Entry]] = {table: {} for table in TABLES if table != "block"}
        for key, entry in top.items():
            if key == "run":
                what = "[run] command: sweeps of other people's scripts are not built yet"
                self.problem(entry.path, what, "describe the model in [model]", key=True)
            elif key not in TOP:
                home = self.home(key)
                remedy = f"it belongs into [{home}]" if home else did_you_mean(key, TOP)
                kind = f"[{escaped(key)}]" if isinstance(entry.raw, dict) else escaped(key)
                self.problem(
                    entry.path, f"{kind} is not a known {'table' if kind[0] == '[' else 'key'}", remedy, key=True
                )
            elif key in found:
                found[key] = self.entries(entry, key)
        return found

    @staticmethod
    def home(key: str) -> str | None:
        """The table that knows a key which stands at the top of the file."""
        for table, keys in _known_keys().items():
            if key in keys:
                return table
        return None

    def entries(self, entry: _Entry, table: str) -> dict[str, _Entry]:
        if not isinstance(entry.raw, dict):
            self.problem(entry.path, f"{table}: {shown(entry.raw)} is not a table", f"write [{table}] above its keys")
            return {}
        return {key: _Entry(raw, (*entry.path, key)) for key, raw in entry.raw.items()}

    def tables_of_blocks(self, top: Mapping[str, _Entry]) -> list[dict[str, dict[str, _Entry]]]:
        entry = top.get("block")
        if entry is None:
            return []
        if not isinstance(entry.raw, list) or not all(isinstance(item, dict) for item in entry.raw):
            self.problem(entry.path, "block is not a list of tables", "write [[block]]", key=True)
            return []
        found = []
        for index, raw in enumerate(entry.raw):
            tables: dict[str, dict[str, _Entry]] = {}
            for table, held in raw.items():
                path: Path = ("block", index, table)
                if table not in SCIENCE:
                    remedy = did_you_mean(table, SCIENCE)
                    self.problem(path, f"[[block]] {escaped(table)} is not model, data or train", remedy, key=True)
                else:
                    tables[table] = self.entries(_Entry(held, path), table)
            found.append(tables)
        return found

    def force(
        self,
        top: dict[str, _Entry],
        tables: dict[str, dict[str, _Entry]],
        blocks: list[dict[str, dict[str, _Entry]]],
    ) -> None:
        """Put the overrides in place: they replace what the tables and the blocks say."""
        known = _known_keys()
        here = {**known, "model": self.model_keys((tables, *blocks)) or known["model"]}
        for index, override in enumerate(self.overrides):
            path: Path = ("--set", index)
            key, equals, value = (part.strip() for part in override.partition("="))
            if not equals:
                self.problem(path, f"{shown(override)} has no value", "write KEY=VALUE")
                continue
            full = self.override_key(path, key, here)
            if full is None:
                continue
            entry = _Entry(self.override_value(path, full, value), path)
            if entry.raw is None:
                continue
            if full in TITLE:
                top[full] = entry
                continue
            table, short = full.split(".", 1)
            replaced = [name.removeprefix("train.") for name in HORIZONS] if full in HORIZONS else [short]
            for held in (tables, *blocks):
                for old in replaced:
                    held.get(table, {}).pop(old, None)
            tables[table][short] = entry

    def override_key(self, path: Path, key: str, here: Mapping[str, Sequence[str]]) -> str | None:
        """The key in full. here: keys of this file's tables; one of another family is found too, and refused later."""
        refused: ExpressionError | None = None
        for tables in (here, _known_keys()):
            try:
                return full_name(key, [*(f"{table}.{name}" for table, held in tables.items() for name in held), *TITLE])
            except ExpressionError as error:
                refused = refused or error
        table, dot, short = key.partition(".")
        assert refused is not None
        remedy = refused.remedy
        if dot and table in here:
            guess = meant(short, here[table])
            remedy = f"did you mean {table}.{guess}?" if guess else did_you_mean(short, here[table])
        self.problem(path, f"--set: {refused.what}", remedy)
        return None

    def model_keys(self, grids: Sequence[Mapping[str, Mapping[str, _Entry]]]) -> tuple[str, ...]:
        """Keys of [model] in the families that the file and the overrides name; () where one of them is not known."""
        families = [held["model"]["family"] for held in grids if "family" in held.get("model", {})]
        for index, override in enumerate(self.overrides):
            key, _, value = (part.strip() for part in override.partition("="))
            if key in ("family", "model.family"):
                path: Path = ("--set", index)
                families = [_Entry(self.override_value(path, "model.family", value), path)]
        found: dict[str, None] = {}
        for entry in families:
            model = self.models(entry).get(str(entry.raw))
            if model is None:
                return ()
            found |= dict.fromkeys(("family", *(key for key in model.options.__dataclass_fields__ if key != "vocab")))
        return tuple(found)

    def override_value(self, path: Path, key: str, value: str) -> Any:
        try:
            held = tomllib.loads(f"x = {value}")
            if list(held) == ["x"]:
                return held["x"]
        except (ValueError, RecursionError):
            if re.fullmatch(r"[A-Za-z~/.][\w.:/~#@-]*", value):
                return value  # a bare word: shells eat the quotes that TOML wants
        self.problem(path, f"--set {key}: {shown(value)} is not a TOML value", "a text in quotes, or { grid = [...] }")
        return None

    # --- tables without axes

    def table(
        self, tables: Mapping[str, Mapping[str, _Entry]], table: str, fields: Mapping[str, Field]
    ) -> dict[str, Any]:
        """Checked values by bare key, defaults filled in."""
        found = {key.split(".", 1)[1]: held.default for key, held in fields.items()}
        for key, entry in tables[table].items():
            full = f"{table}.{key}"
            if full not in fields:
                self.unknown(entry, table, key, fields)
                continue
            try:
                found[key] = fields[full].check(entry.raw)
            except ValueError as error:
                self.wrong(entry.path, full, error)
        return found

    def unknown(self, entry: _Entry, table: str, key: str, fields: Mapping[str, Field]) -> None:
        names = [name.split(".", 1)[1] for name in fields]
        homes = [t for t, keys in _known_keys().items() if key in keys and t != table]
        remedy = f"it belongs into [{homes[0]}]" if homes and meant(key, names) is None else did_you_mean(key, names)
        if table == "model" and key == "vocab":
            remedy = "the data set it"
        self.problem(entry.path, f"[{table}] {escaped(key)} is not a known key", remedy, key=True)

    def wrong(self, path: Path, label: str, error: ValueError) -> None:
        self.problem(path, f"{label}: {error.args[0]}", error.args[1] if len(error.args) > 1 else None)

    def budget(self, tables: Mapping[str, Mapping[str, _Entry]]) -> Budget:
        fields = {
            "budget.device_hours": Field("budget.device_hours", "number", None),
            "budget.disk": Field("budget.disk", "text", None),
        }
        found = self.table(tables, "budget", fields)
        disk = None
        if found["disk"] is not None:
            match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*([kKMGTP]?)(i?)B", found["disk"])
            if match is None:
                remedy = 'a number and B, kB, MB, GB, TB or GiB, as in "5GB"'
                self.problem(
                    tables["budget"]["disk"].path, f"budget.disk: {shown(found['disk'])} is not a size", remedy
                )
            else:
                power = " KMGTP".index(match[2].upper() or " ")
                disk = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
        return Budget(found["device_hours"], disk)

    def evaluation(self, tables: Mapping[str, Mapping[str, _Entry]]) -> tuple[Evaluation, int]:
        fields = {
            "eval.every": Field("eval.every", "integer", Evaluation().every),
            "eval.tokens": Field("eval.tokens", "integer", HELD_OUT_TOKENS),
            "eval.sets": Field("eval.sets", "texts", SETS),
        }
        found = self.table(tables, "eval", fields)
        for index, name in enumerate(found["sets"]):
            if name not in SETS:
                path: Path = (*tables["eval"]["sets"].path, index)
                self.problem(path, f"eval.sets[{index}]: {shown(name)} is not a set", did_you_mean(name, SETS))
        if not found["sets"]:
            self.problem(tables["eval"]["sets"].path, "eval.sets: no set to measure on", f"known: {', '.join(SETS)}")
        return Evaluation(found["every"], tuple(dict.fromkeys(found["sets"]))), found["tokens"]

    def constraints(
        self, tables: Mapping[str, Mapping[str, _Entry]], blocks: Sequence[Block]
    ) -> tuple[Constraint, ...]:
        fields = {"constraints.drop": Field("constraints.drop", "texts", ())}
        found = []
        for index, text in enumerate(self.table(tables, "constraints", fields)["drop"]):
            path: Path = (*tables["constraints"]["drop"].path, index)
            try:
                expression = parse(text)
                for block in blocks:
                    expression.resolved(columns_of(block))
            except ExpressionError as error:
                self.problem(path, f"constraints.drop[{index}]: {error.what}", error.remedy, part=error.column or 0)
                continue
            if not expression.is_condition:
                self.problem(path, f"constraints.drop[{index}]: this is no condition", "compare it with something")
                continue
            place = self.places.value(path)
            drawn = snippet(self.lines, place) if place else None
            found.append(Constraint(expression, place.line if place else None, drawn))
        return tuple(found)

    # --- grids

    def blocks(
        self,
        tables: Mapping[str, Mapping[str, _Entry]],
        blocks: Sequence[Mapping[str, Mapping[str, _Entry]]],
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
        if not self.with_mup:
            for entry in self.deaf:
                what = "model.mup_base_width means nothing without a learning rate of muP"
                self.problem(entry.path, what, f'write lr = "{MUP}RATE", or leave it out', key=True)
        built = [block for block in found if block is not None]
        total = sum(block.size for block in built)
        if total > self.max_runs:
            longest = max((s for b in built for g in b.axes for s in g), key=lambda s: len(s.values))
            what = f"the grids have {total:,} runs, more than {self.max_runs:,}"
            self.problem(longest.path[:-1], what, "shorten an axis, or allow it with --max-runs", key=True)
        if len(built) > 1:
            names = ["above the blocks" if b.index is None else f"[[block]] {b.index}" for b in built]
            self.notes.append("runs by grid: " + ", ".join(f"{b.size} {n}" for b, n in zip(built, names, strict=True)))
        return built

    def complete(self, base: Mapping[str, Mapping[str, _Entry]]) -> bool:
        """Whether the tables above the blocks say all that a run needs."""
        required = {("model", "family")}
        for table, key, members, default in (
            ("model", "family", self.models(base["model"].get("family")), None),
            ("train", "optimizer", OPTIMIZERS, "adamw"),
        ):
            entry = base[table].get(key)
            name = default if entry is None else entry.raw
            if isinstance(name, str) and name in members:
                held = fields_of(members[name].options, table, without=("vocab",))
                required |= {(table, f.key.split(".", 1)[1]) for f in held.values() if f.default is MISSING}
        length = any(name.removeprefix("train.") in base["train"] for name in HORIZONS)
        return length and all(key in base[table] for table, key in required)

    def block(self, index: int | None, raw: Mapping[str, Mapping[str, _Entry]]) -> Block | None:
        before = len(self.problems)
        family = raw["model"].get("family")
        model = self.member(family, "model.family", self.models(family), None)
        task = self.task(raw["data"].get("source"))
        optimizer = self.member(raw["train"].get("optimizer"), "train.optimizer", OPTIMIZERS, "adamw")
        raw = self.mup(raw, model, optimizer)
        if model is not None and optimizer is not None and model.fingerprint and optimizer.turned:
            what = f"train.optimizer: {optimizer.name} needs the fan-in of matrices, and {model.name} does not say it"
            others = [name for name, held in OPTIMIZERS.items() if not held.turned]
            self.problem(raw["train"]["optimizer"].path, what, f"use {' or '.join(others)}")
        fields: dict[str, Field] = {}
        if model is not None:
            fields["model.family"] = Field("model.family", "choice", model.name, (*MODELS, model.name))
            fields |= fields_of(model.options, "model", without=("vocab",))
        if task is not None:
            fields |= fields_of(task.options, "data")
            fields["data.source"] = Field("data.source", "text", "stdlib")
        if optimizer is not None:
            fields |= _train_fields() | fields_of(optimizer.options, "train")
        settings: dict[str, Setting] = {}
        for table, member in zip(SCIENCE, (model, task, optimizer), strict=True):
            if member is None:
                continue
            own = {key: held for key, held in fields.items() if key.startswith(f"{table}.")}
            for key, entry in raw[table].items():
                if f"{table}.{key}" not in own:
                    self.unknown(entry, table, key, own)
                    continue
                setting = self.setting(own[f"{table}.{key}"], entry, fields)
                if setting is not None:
                    settings[setting.key] = setting
            missing = [key for key, held in own.items() if held.default is MISSING and key not in HORIZONS]
            for full in missing:
                if full.split(".", 1)[1] not in raw[table] and not self.broken:
                    at: Path = (
                        (table,) if index is None or table not in self.block_tables(index) else ("block", index, table)
                    )
                    self.problem(at, f"[{table}] {full.split('.', 1)[1]} is missing", _to_write(own[full]), key=True)
        horizon = self.horizon(raw["train"])
        self.zips(settings)
        if len(self.problems) > before or model is None or task is None or optimizer is None or horizon is None:
            return None
        built = Block(index, model, task, optimizer, horizon, fields, settings)
        circle = cycle(built)
        if circle:
            self.problem(settings[circle[0]].path, f"{circle[0]}: rules in a circle, {' -> '.join(circle)}")
            return None
        return built

    def mup(
        self, raw: Mapping[str, Mapping[str, _Entry]], model: Model | None, optimizer: Optimizer | None
    ) -> Mapping[str, Mapping[str, _Entry]]:
        """A grid whose rates are written "mup:RATE", as plain rates and a base width in the model's table.

        Its base width is taken from a grid without such rates: there it means nothing.
        """
        entry, own = raw["train"].get("lr"), dict(raw["model"])
        word = next(iter(entry.raw)) if entry and isinstance(entry.raw, dict) and len(entry.raw) == 1 else None
        held = entry.raw[word] if entry and word in ("grid", "zip") else entry.raw if entry and word is None else None
        rates = held if isinstance(held, list) else [held]
        told = [isinstance(rate, str) and rate.startswith(MUP) for rate in rates]
        if entry is None or not any(told):
            if "mup_base_width" in own:
                self.deaf.append(own.pop("mup_base_width"))
            return {**raw, "model": own}
        self.with_mup = True
        if not all(told):
            what = "train.lr: rates of muP and others in one grid"
            self.problem(entry.path, what, f'write "{MUP}RATE" for each, or give the others a [[block]] of their own')
        for member, defined, kind in (
            (model, model is not None and model.mup_base_width > 0, "family"),
            (optimizer, optimizer is not None and optimizer.rate is not None, "optimizer"),
        ):
            if member is not None and not defined:
                self.problem(entry.path, f"train.lr: muP is not defined for {kind} {member.name}", "give a plain rate")
        if model is not None and model.mup_base_width:
            own.setdefault("mup_base_width", _Entry(model.mup_base_width, entry.path))
        plain: list[Any] = []
        for rate in rates:
            number = _number(rate.removeprefix(MUP)) if isinstance(rate, str) else rate
            if number is None:
                what = f"train.lr: {shown(rate)} has no number behind {MUP}"
                self.problem(entry.path, what, f'write lr = "{MUP}0.003", or a plain rate')
            plain.append(0.003 if number is None else number)
        rate = plain[0] if word is None else {word: plain}
        return {**raw, "model": own, "train": {**raw["train"], "lr": _Entry(rate, entry.path)}}

    def block_tables(self, index: int) -> set[str]:
        return {str(path[2]) for path in self.places.keys if path[:2] == ("block", index) and len(path) > 2}

    def models(self, entry: _Entry | None) -> Mapping[str, Model]:
        """The families, and the user's own model that the entry names, if it is one."""
        if entry is None or not is_foreign(entry.raw):
            return MODELS
        name = str(entry.raw)
        if name not in self.foreign:
            try:
                self.foreign[name] = foreign_model(name, self.examiner)
            except UsageError as error:
                self.foreign[name] = error
        found = self.foreign[name]
        if isinstance(found, UsageError):
            self.problem(entry.path, f"model.family: {found.what}", found.remedy)
            return MODELS
        return {**MODELS, name: found}

    def member(self, entry: _Entry | None, key: str, members: Mapping[str, Any], default: str | None) -> Any:
        if entry is None:
            if default is None and not self.broken:
                self.problem((key.split(".")[0],), f"{key} is missing", f"known: {', '.join(members)}", key=True)
                return None
            return members[default or next(iter(members))]
        if isinstance(entry.raw, dict):
            self.problem(entry.path, f"{key} cannot be varied inside one grid", "give each a [[block]] of its own")
        elif isinstance(self.foreign.get(str(entry.raw)), UsageError):
            pass  # `models` has said why
        elif not isinstance(entry.raw, str) or entry.raw not in members:
            word = entry.raw if isinstance(entry.raw, str) else ""
            self.problem(entry.path, f"{key}: {shown(entry.raw)} is not known", did_you_mean(word, members))
        else:
            return members[entry.raw]
        return None

    def task(self, entry: _Entry | None) -> TaskMember | None:
        """The task that answers to data.source; all sources of one grid belong to one task."""
        raw = "stdlib" if entry is None else entry.raw
        sources = [(raw, entry.path if entry else ())]
        if isinstance(raw, dict) and entry is not None:
            axis = next((word for word in ("grid", "zip") if isinstance(raw.get(word), list)), None)
            if axis is None:
                self.problem(entry.path, f"data.source: {shown(raw)} is not a source", "a text, or { grid = [...] }")
                return None
            sources = [(item, (*entry.path, axis, i)) for i, item in enumerate(raw[axis])]
        found: list[TaskMember] = []
        for source, path in sources:
            answers = [t for t in TASKS.values() if isinstance(source, str) and t.accepts(source)]
            if not answers:
                known = ", ".join(t.sources for t in TASKS.values())
                words = [word.strip() for word in known.split(",") if ":" not in word]
                guess = meant(source, words) if isinstance(source, str) else None
                remedy = f"did you mean {guess}?" if guess else f"known: {known}"
                self.problem(path, f"data.source: {shown(source)} is not a source", remedy)
                return None
            found.append(answers[0])
        if len({t.name for t in found}) > 1:
            self.problem(
                sources[0][1], "data.source: these belong to different tasks", "give each a [[block]] of its own"
            )
            return None
        return found[0] if found else None

    def setting(self, held: Field, entry: _Entry, fields: Mapping[str, Field]) -> Setting | None:
        key, raw = held.key, entry.raw
        if isinstance(raw, dict):
            word = next(iter(raw)) if len(raw) == 1 else None
            if word == "rule":
                return self.rule(held, _Entry(raw["rule"], (*entry.path, "rule")), fields)
            if word in ("grid", "zip"):
                return self.axis(held, _Entry(raw[word], (*entry.path, word)), word)
            guess = did_you_mean(word, ("grid", "zip", "rule")) if word else None
            self.problem(entry.path, f"{key}: {shown(raw)} is not a value", guess or "one of grid, zip or rule")
            return None
        if isinstance(raw, list) and held.kind != "texts":
            self.problem(entry.path, f"{key}: a bare list", "write { grid = [...] } to vary it")
            return None
        try:
            return Setting(key, "fixed", (held.check(raw),), entry.path)
        except ValueError as error:
            self.wrong(entry.path, _label(entry.path, key), error)
            return None

    def axis(self, held: Field, entry: _Entry, word: str) -> Setting | None:
        if not isinstance(entry.raw, list) or not entry.raw:
            what = "an empty list" if entry.raw == [] else f"{shown(entry.raw)} is not a list"
            self.problem(entry.path, f"{held.key}: {what}", f"write {word} = [value, value, ...]")
            return None
        values, wrong = [], False
        for index, raw in enumerate(entry.raw):
            try:
                values.append(held.check(raw))
            except ValueError as error:
                self.wrong((*entry.path, index), f"{_label(entry.path, held.key)}[{index}]", error)
                wrong = True
        kind = "grid" if word == "grid" else "zip"
        return None if wrong else Setting(held.key, kind, tuple(values), entry.path)  # type: ignore[arg-type]

    def rule(self, held: Field, entry: _Entry, fields: Mapping[str, Field]) -> Setting | None:
        label = _label(entry.path, held.key)
        if not held.numeric:
            self.problem(entry.path, f"{label}: a rule gives numbers, and this key holds none")
            return None
        if not isinstance(entry.raw, str):
            self.problem(
                entry.path, f"{label}: {shown(entry.raw)} is not a rule", 'a rule is a text, as in "d_model / 64"'
            )
            return None
        try:
            expression = parse(entry.raw)
            names = expression.resolved(readable(fields))
        except ExpressionError as error:
            self.problem(entry.path, f"{label}: {error.what}", error.remedy, part=error.column or 0)
            return None
        return Setting(held.key, "rule", (), entry.path, expression, names)

    def horizon(self, train: Mapping[str, _Entry]) -> str | None:
        given = [key for key in HORIZONS if key.removeprefix("train.") in train]
        if len(given) == 1:
            return given[0]
        words = ", ".join(key.removeprefix("train.") for key in (given or HORIZONS))
        if not given and not self.broken:
            self.problem(("train",), "[train] says not how long a run is", f"give one of {words}", key=True)
        for key in given[1:]:
            path = train[key.removeprefix("train.")].path
            what = f"[train] {words} are given; a run has one length"
            self.problem(path, what, "keep one of them", key=True)
        return None

    def zips(self, settings: Mapping[str, Setting]) -> None:
        zipped = [s for s in settings.values() if s.kind == "zip"]
        for other in zipped[1:]:
            if len(other.values) != len(zipped[0].values):
                what = (
                    f"{other.key}: {len(other.values)} zipped values, and {zipped[0].key} has {len(zipped[0].values)}"
                )
                self.problem(other.path, what, "zipped lists vary together and need one length")

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
                        self.problem(cell.path, f"{_label(cell.path, cell.key)}: {cell.what}", cell.remedy)
                if broken:
                    first, *more = broken.values()
                    others = f"; {counted(len(more), 'other model')} of the grid fail too" if more else ""
                    self.problem(first.path, f"{_label(first.path, first.key)}: {first.what}{others}", first.remedy)
            except SweepFileError:
                raise
            except UsageError as error:
                key = f"data.{error.key if isinstance(error, DataError) else 'source'}"
                at = block.settings.get(key) or block.settings.get("data.source")
                what = " ".join(part for part in (error.what, error.where) if part)
                self.problem(at.path if at else ("data",), f"{key}: {what}", error.remedy)
        return found

    def describe(self, member: TaskMember, options: Any) -> Description:
        if (member.name, options) not in self.described:
            self.described[member.name, options] = member.describe(options)
        return self.described[member.name, options]


def columns_of(block: Block) -> tuple[str, ...]:
    """Names that a constraint may read: the columns of a planned run of this block."""
    keys = [f"model.{name}" for name in ("family", *block.model.options.__dataclass_fields__)]
    keys += [f"data.{name}" for name in (*block.task.options.__dataclass_fields__, "task", "fingerprint", "origin")]
    train = (*block.optimizer.options.__dataclass_fields__, *ScheduleOptions.__dataclass_fields__)
    own = ("optimizer", "schedule", "steps", "tokens", "batch_tokens", "seed", "precision")
    keys += [f"train.{name}" for name in (*train, *own)]
    return (*keys, "eval.tokens", "eval.every", *DERIVED)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


EXAMPLES = {
    "train.lr": 'lr = 0.003, or lr = { rule = "min(0.03, 0.4 / d_model)" }',
    "train.adamw_lr": "adamw_lr = 0.003, the rate of what muon leaves to AdamW: tables, head and vectors",
}


def _to_write(held: Field) -> str:
    """What to write for a key that is missing."""
    if held.key in EXAMPLES:
        return f"write {EXAMPLES[held.key]}"
    kinds = {"integer": "an integer", "number": "a number", "truth": "true or false", "text": "a text in quotes"}
    kind = f"one of {', '.join(held.choices)}" if held.choices else kinds.get(held.kind, "a list of texts")
    return f"write {held.key.split('.', 1)[1]} = {kind}"


def _label(path: Path, key: str) -> str:
    """A path as a reader writes it: block[1].model.d_model[2]."""
    if not path or path[0] == "--set":
        return key
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part not in ("grid", "zip", "rule"):
            text += f".{part}" if text else part
    return text


def _train_fields() -> dict[str, Field]:
    """Keys of [train] that belong to no optimiser; the defaults are described in the README.

    Warm-up 5 % of the run: ours, short, because a long warm-up bends small-scale laws (Porian et al. 2024). Decay 20 %:
    Hägele et al. 2024, arXiv 2405.18392.
    """
    own = (
        Field("train.tokens", "integer"),
        Field("train.tokens_per_param", "number"),
        Field("train.flops", "number"),
        Field("train.steps", "integer"),
        Field("train.batch_tokens", "integer", None),
        Field("train.optimizer", "choice", "adamw", tuple(OPTIMIZERS)),
        Field("train.schedule", "choice", "wsd", tuple(SCHEDULES)),
        Field("train.warmup", "number", 0.05),
        Field("train.decay", "number", 0.2),
        Field("train.min_decay", "integer", 0),
        Field("train.precision", "choice", "fp32", tuple(BYTES)),
        Field("train.seed", "integer", 0),
    )
    schedule = fields_of(ScheduleOptions, "train", without=("warmup", "decay"))
    return {held.key: held for held in own} | schedule


_KEY_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_DOTTED = re.compile(rf"""(?<![\w"'-])(?:{_KEY_PART}){{{MAX_PARTS}}}""")


@functools.cache
def _known_keys() -> dict[str, tuple[str, ...]]:
    """Every key of every table, whatever the members: for overrides and for `it belongs into [...]`."""
    found: dict[str, dict[str, None]] = {table: {} for table in TABLES if table != "block"}
    for model in MODELS.values():
        found["model"] |= dict.fromkeys(("family", *(f for f in model.options.__dataclass_fields__ if f != "vocab")))
    for task in TASKS.values():
        found["data"] |= dict.fromkeys(task.options.__dataclass_fields__)
    found["train"] |= dict.fromkeys(key.removeprefix("train.") for key in _train_fields())
    for optimizer in OPTIMIZERS.values():
        found["train"] |= dict.fromkeys(optimizer.options.__dataclass_fields__)
    found["eval"] |= dict.fromkeys(("every", "tokens", "sets"))
    found["constraints"] |= {"drop": None}
    found["runtime"] |= dict.fromkeys(Runtime.__dataclass_fields__)
    found["budget"] |= dict.fromkeys(Budget.__dataclass_fields__)
    found["on_error"] |= dict.fromkeys(OnError.__dataclass_fields__)
    found["slurm"] |= dict.fromkeys(SLURM)
    return {table: tuple(keys) for table, keys in found.items()}

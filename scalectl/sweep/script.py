"""[run] and [params] of a sweep file: somebody's own script, and the grids of its parameters."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path as Folder

from scalectl.core.errors import ExpressionError
from scalectl.core.expression import parse
from scalectl.core.names import did_you_mean, escaped, meant, shown
from scalectl.core.run import param_column
from scalectl.core.source import source_digest
from scalectl.core.template import placeholders
from scalectl.sweep.block import Setting
from scalectl.sweep.command import COUNTS, OUT, PARAMS, CommandBlock, CommandCell, Script, circle, command_cells
from scalectl.sweep.draft import Draft, Entry, Tables
from scalectl.sweep.fields import Field
from scalectl.sweep.keys import ENV, RUN, label_of
from scalectl.sweep.locate import Path
from scalectl.sweep.tables import table_of
from scalectl.sweep.values import check_zips, setting_of

READS_PARAMS, READS_OUT = b"SCALECTL_PARAMS", b"SCALECTL_OUT"
LARGEST_FILE = 64_000_000  # bytes of an argument that counts as code; ours: beyond, it is data, and slow to digest
_NAME = re.compile(r"[A-Za-z_]\w{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_]\w{0,254}")
FOUND = ("step", "loss", "metric", "value", "split", "tokens", "flops", "N", "D", "C")


class ScriptReader:
    """Reads what a file says of a script. notes: what its reader should know; folders: the one in which it runs."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.notes: list[str] = []
        self.code = b""
        self.folders: tuple[str, ...] = ()

    def blocks(self, tables: Tables, blocks: Sequence[Tables]) -> list[CommandBlock]:
        """The grids of the file; the parameters above the blocks are one of them if they are all that it needs."""
        before = len(self.draft.problems)
        raw = tables["run"]
        known = {*tables["params"], *(name for own in blocks for name in own.get("params", {}))}
        script = self.script(tables, known)
        grids: list[tuple[int | None, dict[str, Entry]]] = []
        for index, own in enumerate(blocks):
            grids.append((index, {**tables["params"], **own.get("params", {})}))
        if not blocks or (known <= tables["params"].keys()):
            grids.insert(0, (None, dict(tables["params"])))
        found = [self.block(index, params, raw, script) for index, params in grids]
        built = [block for block in found if block is not None]
        if script is not None and len(self.draft.problems) == before:
            self.used(script, raw, built)
        return built

    def cells(self, blocks: Sequence[CommandBlock]) -> list[CommandCell]:
        """Every cell of the grids; those that cannot be are problems."""
        found = []
        for block in blocks:
            for cell in command_cells(block):
                if isinstance(cell, CommandCell):
                    found.append(cell)
                else:
                    self.draft.problem(cell.path, f"{label_of(cell.path, cell.key)}: {cell.what}", cell.remedy)
        return found

    def script(self, tables: Tables, params: set[str]) -> Script | None:
        """[run], but for its formulas. params: names that a template may hold."""
        before = len(self.draft.problems)
        own = {key: entry for key, entry in tables["run"].items() if f"run.{key}" not in COUNTS and key != ENV}
        held = table_of(self.draft, {"run": own}, "run", RUN)
        command: tuple[str, ...] = held["command"]
        if not command and not self.draft.broken:
            remedy = 'as in command = ["python", "train.py", "--width", "{width}"]'
            self.draft.problem(("run",), "[run] command is missing", remedy, key="command" not in own)
        for index, part in enumerate(command):
            self.template(("run", "command", index), part, params)
        env = self.env(tables["run"].get(ENV), params)
        if held["rows"]:
            self.rows(held["rows"])
        folder, files = self.files(command, held["code"])
        if len(self.draft.problems) > before or not command:
            return None
        self.folders = (str(folder),)
        digest = source_digest(folder, files)
        return Script(command, env, files, digest, held["rows"], held["convention"], held["keep"])

    def template(self, path: Path, text: str, params: set[str]) -> None:
        """Report names in a template that stand for nothing."""
        for name, at in placeholders(text).items():
            if name not in (*params, OUT, PARAMS):
                guess = meant(name, (*params, OUT))
                remedy = f"did you mean {guess}?" if guess else f"give it in [params] {name} = ..."
                self.draft.problem(path, f"{{{name}}} is no parameter", remedy, part=at + 1)

    def env(self, entry: Entry | None, params: set[str]) -> tuple[tuple[str, str], ...]:
        """[run.env]: variables and the templates of their values."""
        if entry is None:
            return ()
        if not isinstance(entry.raw, dict):
            self.draft.problem(entry.path, f"run.env: {shown(entry.raw)} is not a table", 'env = { NAME = "value" }')
            return ()
        field = Field("run.env", "text")
        found = []
        for name, raw in entry.raw.items():
            path = (*entry.path, name)
            if not _VARIABLE.fullmatch(name) or name.startswith("SCALECTL_"):
                self.draft.problem(path, f"run.env: {shown(name)} cannot name a variable here", key=True)
                continue
            try:
                found.append((name, field.check(raw)))
            except ValueError as error:
                self.draft.wrong(path, f"run.env.{escaped(name)}", error)
                continue
            self.template(path, raw, params)
        return tuple(found)

    def rows(self, text: str) -> None:
        """Report an expression for printed rows that finds none."""
        try:
            names = re.compile(text).groupindex
        except (re.error, RecursionError) as error:
            self.draft.problem(("run", "rows"), f"run.rows: {error} in this regular expression")
            return
        for name in names:
            if name not in FOUND:
                self.draft.problem(("run", "rows"), f"run.rows: no row has a {name}", did_you_mean(name, FOUND))
        if not ({"step", "loss"} <= names.keys() or {"step", "metric", "value"} <= names.keys()):
            remedy = r"name them, as in 'step (?P<step>\d+) .* loss (?P<loss>\S+)'"
            self.draft.problem(("run", "rows"), "run.rows: it finds no step and loss", remedy)

    def files(self, command: Sequence[str], code: Sequence[str]) -> tuple[Folder, tuple[str, ...]]:
        """The folder in which the command runs, and the files of it that are code: arguments and [run] code."""
        beside = Folder(self.draft.folder)
        named = [part for i, part in enumerate(command) if not placeholders(part) and (i or os.sep in part)]
        own = [part for part in named if not os.path.isabs(part)]  # an interpreter is everywhere
        folders = [folder for folder in (beside, Folder.cwd()) if any(_is_file(folder / part) for part in own)]
        folder = folders[0] if folders else beside
        if command and not placeholders(command[0]) and not self.program(command[0], folder):
            return folder, ()
        files = {part for part in named if _is_file(folder / part)}
        for part in sorted(files):
            if (folder / part).stat().st_size > LARGEST_FILE:
                files.discard(part)
                self.notes.append(f"{part} is too large to be code: what is in it is no part of a run's identity")
        for index, pattern in enumerate(code):
            matches = [name for name in glob.glob(pattern, root_dir=folder, recursive=True) if _is_file(folder / name)]
            if not matches:
                self.draft.problem(("run", "code", index), f"run.code: no file {shown(pattern)} in {folder}")
            files.update(matches)
        unreadable = [name for name in sorted(files) if not os.access(folder / name, os.R_OK)]
        for name in unreadable:
            self.draft.problem(("run",), f"[run] {escaped(name)} cannot be read")
        if command and not files:
            what = f"[run] no argument of the command is a file of {folder}"
            self.draft.problem(("run", "command"), what, 'list the code whose runs these are: code = ["train.py"]')
        self.code = b"\n".join((folder / name).read_bytes() for name in sorted(files.difference(unreadable)))
        return folder, tuple(sorted(files))

    def program(self, name: str, folder: Folder) -> bool:
        """Whether there is such a program; what is wrong is reported."""
        there = os.access(folder / name, os.X_OK) if os.sep in name else shutil.which(name) is not None
        if not there:
            where = f"no program in {folder}" if os.sep in name else "not on the PATH"
            other = "python3" if name == "python" and shutil.which("python3") else None
            self.draft.problem(("run", "command", 0), f"{shown(name)} is {where}", other and f"write {other}")
        return there

    def block(
        self, index: int | None, params: Mapping[str, Entry], run: Mapping[str, Entry], script: Script | None
    ) -> CommandBlock | None:
        """One grid of parameters, with the formulas of the file."""
        before = len(self.draft.problems)
        for name, entry in params.items():
            if not _NAME.fullmatch(name) or name in (OUT, PARAMS):
                remedy = "letters, digits and '_', the first no digit; out and params mean something else"
                self.draft.problem(entry.path, f"params: {shown(name)} cannot name a parameter", remedy, key=True)
        texts = [] if script is None else [*script.command, *(text for _, text in script.env)]
        absent = placeholders(" ".join(texts)).keys() - {*params, OUT, PARAMS}
        for name in sorted(absent):
            at: Path = ("params",) if index is None else ("block", index)
            self.draft.problem(at, f"the command needs {{{name}}}, which is not given here", key=True)
        if absent:
            return None
        fields = {param_column(name): Field(f"params.{name}", "scalar") for name in params}
        columns = [field.key for field in fields.values()]
        given = [key for key in ("run.N", "run.D", "run.C") if key.removeprefix("run.") in run]
        settings: dict[str, Setting] = {}
        for name, entry in params.items():
            setting = setting_of(self.draft, fields[param_column(name)], entry, [*columns, *given])
            if setting is not None:
                settings[param_column(name)] = setting
        counts: dict[str, Setting] = {}
        for key, field in COUNTS.items():
            entry_of = run.get(key.removeprefix("run."))
            readable = [*columns, *(other for other in given if other != key)]
            setting = None if entry_of is None else self.count(field, entry_of, readable)
            if setting is not None:
                counts[key] = setting
        check_zips(self.draft, settings)
        if len(self.draft.problems) > before or script is None:
            return None
        block = CommandBlock(index, fields, settings, script, counts)
        round_trip = circle(block)
        if round_trip:
            names = " -> ".join(setting.key for setting in round_trip)
            self.draft.problem(round_trip[0].path, f"{round_trip[0].key}: rules in a circle, {names}")
            return None
        return block

    def count(self, field: Field, entry: Entry, readable: Sequence[str]) -> Setting | None:
        """A number of [run], or a formula for it."""
        if isinstance(entry.raw, str):
            try:
                expression = parse(entry.raw)
                names = expression.resolved(readable)
            except ExpressionError as error:
                self.draft.problem(entry.path, f"{field.key}: {error.what}", error.remedy, part=error.column or 0)
                return None
            return Setting(field.key, "rule", (), entry.path, expression, names)
        try:
            return Setting(field.key, "fixed", (field.check(entry.raw),), entry.path)
        except ValueError as error:
            self.draft.wrong(entry.path, field.key, error)
            return None

    def used(self, script: Script, run: Mapping[str, Entry], blocks: Sequence[CommandBlock]) -> None:
        """Report parameters that change nothing, and note what only the script can know."""
        texts = [*script.command, *(text for _, text in script.env)]
        named = {name for text in texts for name in placeholders(text)}
        everything = PARAMS in named or READS_PARAMS in self.code
        for block in blocks:
            rules = [*block.settings.values(), *block.counts.values()]
            read = {full for setting in rules for full in setting.rule_names.values()}
            for setting in block.settings.values():
                name = setting.key.removeprefix("params.")
                if not everything and name not in named and setting.key not in read:
                    path = setting.path[: 4 if setting.path[0] == "block" else 2]  # of its key
                    what = f"params.{name}: neither the command nor a rule names it"
                    self.draft.problem(
                        path, what, f"write {{{name}}} into the command, or read SCALECTL_PARAMS", key=True
                    )
        if OUT not in named and READS_OUT not in self.code:
            self.notes.append("the command has no {out}: a run that is killed has no checkpoint and begins anew")
        if "N" not in run and "?P<N>" not in script.rows and not re.search(rb"""["']N["']""", self.code):
            self.notes.append(
                'N is not known: give [run] N = "..." over the parameters, or let the script write {"N": ...}'
            )


def _is_file(path: Folder) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a null byte
        return False

"""The tables of a sweep file as entries, and the values of those that have no axes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from scalectl.core.errors import ExpressionError, Problem
from scalectl.core.expression import parse
from scalectl.core.names import did_you_mean, escaped, is_name, meant, shown
from scalectl.core.run import Evaluation
from scalectl.models import given_by_data
from scalectl.sweep.block import Block
from scalectl.sweep.command import CommandBlock
from scalectl.sweep.draft import Draft, Entry, Tables
from scalectl.sweep.fields import Field, fields_of
from scalectl.sweep.keys import SCIENCE, TABLES, TOP, columns_of, known_keys
from scalectl.sweep.locate import Path, snippet
from scalectl.sweep.ray import FORMS as RAY_FORMS
from scalectl.sweep.ray import RESOURCE, Ray
from scalectl.sweep.slurm import FORMS as SLURM_FORMS
from scalectl.sweep.slurm import Slurm
from scalectl.sweep.sweep import Budget, Constraint

HELD_OUT_TOKENS = 65_536  # default of eval.tokens; ours: a standard error near 0.5 % of the loss of text
SETS = ("held-out",)


def title_of(draft: Draft, top: Mapping[str, Entry]) -> tuple[str, str]:
    """Name and question of the sweep."""
    found = {"name": "", "question": ""}
    for key in found:
        entry = top.get(key)
        if entry is None:
            if key == "name" and not draft.broken:
                draft.add(Problem(1, "the sweep has no name", 'write name = "my-sweep" in the first line'))
        elif not isinstance(entry.raw, str):
            draft.problem(entry.path, f"{key}: {shown(entry.raw)} is not a text")
        elif key == "name" and not is_name(entry.raw):
            remedy = "letters, digits, '.', '_' and '-', at most 64, the first a letter or digit"
            draft.problem(entry.path, f"name: {shown(entry.raw)} cannot name a sweep", remedy)
        elif len(entry.raw) > 1000 or not entry.raw.replace("\n", " ").isprintable():
            draft.problem(entry.path, f"{key}: too long, or with characters that cannot be printed")
        else:
            found[key] = " ".join(entry.raw.split())
    return found["name"], found["question"]


def tables_of(draft: Draft, top: Mapping[str, Entry]) -> Tables:
    """Entries of every table, by table and key; unknown names at the top are problems."""
    found: Tables = {table: {} for table in TABLES if table != "block"}
    for key, entry in top.items():
        if key not in TOP:
            home = _home(key)
            remedy = f"it belongs into [{home}]" if home else did_you_mean(key, TOP)
            kind = f"[{escaped(key)}]" if isinstance(entry.raw, dict) else escaped(key)
            draft.problem(entry.path, f"{kind} is not a known {'table' if kind[0] == '[' else 'key'}", remedy, key=True)
        elif key in found:
            found[key] = entries_of(draft, entry, key)
    return found


def _home(key: str) -> str | None:
    """The table that knows a key which stands at the top of the file."""
    for table, keys in known_keys().items():
        if key in keys:
            return table
    return None


def entries_of(draft: Draft, entry: Entry, table: str) -> dict[str, Entry]:
    """The entries of one table by key; none where it is no table."""
    if not isinstance(entry.raw, dict):
        draft.problem(entry.path, f"{table}: {shown(entry.raw)} is not a table", f"write [{table}] above its keys")
        return {}
    return {key: Entry(raw, (*entry.path, key)) for key, raw in entry.raw.items()}


def tables_of_blocks(draft: Draft, top: Mapping[str, Entry]) -> list[Tables]:
    """The tables of every [[block]], in the order of the file."""
    entry = top.get("block")
    if entry is None:
        return []
    if not isinstance(entry.raw, list) or not all(isinstance(item, dict) for item in entry.raw):
        draft.problem(entry.path, "block is not a list of tables", "write [[block]]", key=True)
        return []
    found = []
    for index, raw in enumerate(entry.raw):
        tables: Tables = {}
        for table, held in raw.items():
            path: Path = ("block", index, table)
            allowed = ("params",) if "run" in top else SCIENCE
            listed = "params" if "run" in top else "model, data or train"
            if table not in allowed:
                remedy = did_you_mean(table, allowed)
                draft.problem(path, f"[[block]] {escaped(table)} is not {listed}", remedy, key=True)
            else:
                tables[table] = entries_of(draft, Entry(held, path), table)
        found.append(tables)
    return found


def table_of(
    draft: Draft, tables: Mapping[str, Mapping[str, Entry]], table: str, fields: Mapping[str, Field]
) -> dict[str, Any]:
    """Checked values by bare key, defaults filled in."""
    found = {key.split(".", 1)[1]: held.default for key, held in fields.items()}
    for key, entry in tables[table].items():
        full = f"{table}.{key}"
        if full not in fields:
            unknown(draft, entry, table, key, fields)
            continue
        try:
            found[key] = fields[full].check(entry.raw)
        except ValueError as error:
            draft.wrong(entry.path, full, error)
    return found


def unknown(draft: Draft, entry: Entry, table: str, key: str, fields: Mapping[str, Field]) -> None:
    """Report a key that the table does not have, with where it belongs or what was meant."""
    names = [name.split(".", 1)[1] for name in fields]
    homes = [t for t, keys in known_keys().items() if key in keys and t != table]
    remedy = f"it belongs into [{homes[0]}]" if homes and meant(key, names) is None else did_you_mean(key, names)
    if table == "model" and key in given_by_data():
        remedy = "the data set it"
    draft.problem(entry.path, f"[{table}] {escaped(key)} is not a known key", remedy, key=True)


def budget_of(draft: Draft, tables: Mapping[str, Mapping[str, Entry]]) -> Budget:
    """[budget], its size of the disk in bytes."""
    fields = {
        "budget.device_hours": Field("budget.device_hours", "number", None),
        "budget.disk": Field("budget.disk", "text", None),
    }
    found = table_of(draft, tables, "budget", fields)
    disk = None
    if found["disk"] is not None:
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)\s*([kKMGTP]?)(i?)B", found["disk"])
        if match is None:
            remedy = 'a number and B, kB, MB, GB, TB or GiB, as in "5GB"'
            draft.problem(tables["budget"]["disk"].path, f"budget.disk: {shown(found['disk'])} is not a size", remedy)
        else:
            power = " KMGTP".index(match[2].upper() or " ")
            disk = int(float(match[1]) * (1024 if match[3] else 1000) ** power)
    return Budget(found["device_hours"], disk)


def slurm_of(draft: Draft, tables: Mapping[str, Mapping[str, Entry]]) -> Slurm:
    """[slurm]; what becomes an option of sbatch is a value to a shell and to sbatch, and never more."""
    before = len(draft.problems)
    found = _formed(draft, tables, "slurm", fields_of(Slurm, "slurm"), SLURM_FORMS)
    entries = tables["slurm"]
    for index, line in enumerate(found["setup"]):
        if not line.replace("\t", " ").isprintable():
            what = f"slurm.setup[{index}]: {shown(line)} is not one line of a shell script"
            draft.problem((*entries["setup"].path, index), what, "give each line as a text of its own")
    slurm = Slurm(**found) if len(draft.problems) == before else Slurm()
    if slurm.seconds is not None and slurm.seconds <= slurm.grace:
        what = f"slurm.time: {shown(slurm.time)} ends within the {slurm.grace} seconds that slurm.signal leaves"
        draft.problem(entries["time"].path, what, 'ask for more time, or write signal = "USR1@30"')
    return slurm


def ray_of(draft: Draft, tables: Mapping[str, Mapping[str, Entry]]) -> Ray:
    """[ray], its address no more than a place and its resources no more than names and amounts."""
    before = len(draft.problems)
    found = _formed(draft, tables, "ray", fields_of(Ray, "ray"), RAY_FORMS)
    pattern, remedy = RESOURCE
    for index, text in enumerate(found["resources"]):
        if re.fullmatch(pattern, text) is None:
            what = f"ray.resources[{index}]: {shown(text)} is not {remedy.partition(',')[0]}"
            draft.problem((*tables["ray"]["resources"].path, index), what, remedy.partition(", ")[2])
    return Ray(**found) if len(draft.problems) == before else Ray()


def _formed(
    draft: Draft,
    tables: Mapping[str, Mapping[str, Entry]],
    table: str,
    fields: Mapping[str, Field],
    forms: Mapping[str, tuple[str, str]],
) -> dict[str, Any]:
    """Checked values of a cluster's table, texts also against their forms: what they match, and what that is."""
    found = table_of(draft, tables, table, fields)
    for key, (pattern, remedy) in forms.items():
        if key in tables[table] and isinstance(found[key], str) and re.fullmatch(pattern, found[key]) is None:
            what = f"{table}.{key}: {shown(found[key])} is not {remedy.partition(',')[0]}"
            draft.problem(tables[table][key].path, what, remedy.partition(", ")[2])
    return found


def evaluation_of(draft: Draft, tables: Mapping[str, Mapping[str, Entry]]) -> tuple[Evaluation, int]:
    """[eval], and how many held-out tokens it asks for."""
    fields = {
        "eval.every": Field("eval.every", "integer", Evaluation().every),
        "eval.tokens": Field("eval.tokens", "integer", HELD_OUT_TOKENS),
        "eval.sets": Field("eval.sets", "texts", SETS),
    }
    found = table_of(draft, tables, "eval", fields)
    for index, name in enumerate(found["sets"]):
        if name not in SETS:
            path: Path = (*tables["eval"]["sets"].path, index)
            draft.problem(path, f"eval.sets[{index}]: {shown(name)} is not a set", did_you_mean(name, SETS))
    if not found["sets"]:
        draft.problem(tables["eval"]["sets"].path, "eval.sets: no set to measure on", f"known: {', '.join(SETS)}")
    return Evaluation(found["every"], tuple(dict.fromkeys(found["sets"]))), found["tokens"]


def constraints_of(
    draft: Draft, tables: Mapping[str, Mapping[str, Entry]], blocks: Sequence[Block | CommandBlock]
) -> tuple[Constraint, ...]:
    """[constraints], each held against the columns of every grid."""
    fields = {"constraints.drop": Field("constraints.drop", "texts", ())}
    found = []
    for index, text in enumerate(table_of(draft, tables, "constraints", fields)["drop"]):
        path: Path = (*tables["constraints"]["drop"].path, index)
        try:
            expression = parse(text)
            for block in blocks:
                expression.resolved(columns_of(block))
        except ExpressionError as error:
            draft.problem(path, f"constraints.drop[{index}]: {error.what}", error.remedy, part=error.column or 0)
            continue
        if not expression.is_condition:
            draft.problem(path, f"constraints.drop[{index}]: this is no condition", "compare it with something")
            continue
        place = draft.places.value(path)
        drawn = snippet(draft.lines, place) if place else None
        found.append(Constraint(expression, place.line if place else None, drawn))
    return tuple(found)

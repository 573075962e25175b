"""`--set KEY=VALUE`: overrides take the place of what the tables and the blocks of a file say."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from scalectl.core.errors import ExpressionError
from scalectl.core.expression import full_name
from scalectl.core.names import did_you_mean, meant, shown
from scalectl.sweep.block import HORIZONS
from scalectl.sweep.draft import Draft, Entry, Tables
from scalectl.sweep.keys import SCIENCE, TITLE, known_keys
from scalectl.sweep.locate import Path
from scalectl.sweep.members import Members


def assign(
    draft: Draft,
    members: Members,
    top: dict[str, Entry],
    tables: Tables,
    blocks: list[Tables],
) -> None:
    """Put the overrides in place: they replace what the tables and the blocks say."""
    known = known_keys()
    params = dict.fromkeys(name for held in (tables, *blocks) for name in held.get("params", {}))
    if "run" in top:
        here = {
            **{table: keys for table, keys in known.items() if table not in (*SCIENCE, "eval")},
            "params": (*params,),
        }
    else:
        here = {**known, "model": _model_keys(draft, members, (tables, *blocks)) or known["model"]}
    for index, override in enumerate(draft.overrides):
        path: Path = ("--set", index)
        key, equals, value = (part.strip() for part in override.partition("="))
        if not equals:
            draft.problem(path, f"{shown(override)} has no value", "write KEY=VALUE")
            continue
        full = _key(draft, path, key, here)
        if full is None:
            continue
        entry = Entry(_value(draft, path, full, value), path)
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


def _key(draft: Draft, path: Path, key: str, here: Mapping[str, Sequence[str]]) -> str | None:
    """The key in full. here: keys of this file's tables; one of another family is found too, and refused later."""
    refused: ExpressionError | None = None
    for tables in (here, {table: held for table, held in known_keys().items() if table in here}):
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
    draft.problem(path, f"--set: {refused.what}", remedy)
    return None


def _model_keys(draft: Draft, members: Members, grids: Sequence[Mapping[str, Mapping[str, Entry]]]) -> tuple[str, ...]:
    """Keys of [model] in the families that the file and the overrides name; () where one of them is not known."""
    families = [held["model"]["family"] for held in grids if "family" in held.get("model", {})]
    for index, override in enumerate(draft.overrides):
        key, _, value = (part.strip() for part in override.partition("="))
        if key in ("family", "model.family"):
            path: Path = ("--set", index)
            families = [Entry(_value(draft, path, "model.family", value), path)]
    found: dict[str, None] = {}
    for entry in families:
        model = members.models(entry).get(str(entry.raw))
        if model is None:
            return ()
        found |= dict.fromkeys(
            ("family", *(key for key in model.options.__dataclass_fields__ if key not in model.given))
        )
    return tuple(found)


def _value(draft: Draft, path: Path, key: str, value: str) -> Any:
    try:
        held = tomllib.loads(f"x = {value}")
        if list(held) == ["x"]:
            return held["x"]
    except (ValueError, RecursionError):
        if re.fullmatch(r"[A-Za-z~/.][\w.:/~#@-]*", value):
            return value  # a bare word: shells eat the quotes that TOML wants
    draft.problem(path, f"--set {key}: {shown(value)} is not a TOML value", "a text in quotes, or { grid = [...] }")
    return None

"""What one key of a grid says: a value, an axis of values, or a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scalectl.core.errors import ExpressionError
from scalectl.core.expression import parse
from scalectl.core.names import did_you_mean, shown
from scalectl.sweep.block import HORIZONS, Setting
from scalectl.sweep.draft import Draft, Entry
from scalectl.sweep.fields import Field
from scalectl.sweep.keys import label_of


def setting_of(draft: Draft, held: Field, entry: Entry, readable: Sequence[str]) -> Setting | None:
    """What an entry says of a key; None where that is a mistake. readable: names that a rule may read."""
    key, raw = held.key, entry.raw
    if isinstance(raw, dict):
        word = next(iter(raw)) if len(raw) == 1 else None
        if word == "rule":
            return _rule(draft, held, Entry(raw["rule"], (*entry.path, "rule")), readable)
        if word in ("grid", "zip"):
            return _axis(draft, held, Entry(raw[word], (*entry.path, word)), word)
        guess = did_you_mean(word, ("grid", "zip", "rule")) if word else None
        draft.problem(entry.path, f"{key}: {shown(raw)} is not a value", guess or "one of grid, zip or rule")
        return None
    if isinstance(raw, list) and held.kind != "texts":
        draft.problem(entry.path, f"{key}: a bare list", "write { grid = [...] } to vary it")
        return None
    try:
        return Setting(key, "fixed", (held.check(raw),), entry.path)
    except ValueError as error:
        draft.wrong(entry.path, label_of(entry.path, key), error)
        return None


def _axis(draft: Draft, held: Field, entry: Entry, word: str) -> Setting | None:
    if not isinstance(entry.raw, list) or not entry.raw:
        what = "an empty list" if entry.raw == [] else f"{shown(entry.raw)} is not a list"
        draft.problem(entry.path, f"{held.key}: {what}", f"write {word} = [value, value, ...]")
        return None
    values, wrong = [], False
    for index, raw in enumerate(entry.raw):
        try:
            values.append(held.check(raw))
        except ValueError as error:
            draft.wrong((*entry.path, index), f"{label_of(entry.path, held.key)}[{index}]", error)
            wrong = True
    kind = "grid" if word == "grid" else "zip"
    return None if wrong else Setting(held.key, kind, tuple(values), entry.path)  # type: ignore[arg-type]


def _rule(draft: Draft, held: Field, entry: Entry, readable: Sequence[str]) -> Setting | None:
    label = label_of(entry.path, held.key)
    if not held.numeric:
        draft.problem(entry.path, f"{label}: a rule gives numbers, and this key holds none")
        return None
    if not isinstance(entry.raw, str):
        draft.problem(
            entry.path, f"{label}: {shown(entry.raw)} is not a rule", 'a rule is a text, as in "d_model / 64"'
        )
        return None
    try:
        expression = parse(entry.raw)
        names = expression.resolved(readable)
    except ExpressionError as error:
        draft.problem(entry.path, f"{label}: {error.what}", error.remedy, part=error.column or 0)
        return None
    return Setting(held.key, "rule", (), entry.path, expression, names)


def horizon_of(draft: Draft, train: Mapping[str, Entry]) -> str | None:
    """The key that says how long a run is; None unless there is exactly one."""
    given = [key for key in HORIZONS if key.removeprefix("train.") in train]
    if len(given) == 1:
        return given[0]
    words = ", ".join(key.removeprefix("train.") for key in (given or HORIZONS))
    if not given and not draft.broken:
        draft.problem(("train",), "[train] says not how long a run is", f"give one of {words}", key=True)
    for key in given[1:]:
        path = train[key.removeprefix("train.")].path
        what = f"[train] {words} are given; a run has one length"
        draft.problem(path, what, "keep one of them", key=True)
    return None


def check_zips(draft: Draft, settings: Mapping[str, Setting]) -> None:
    """Zipped lists of one grid vary together, so that they have one length."""
    zipped = [s for s in settings.values() if s.kind == "zip"]
    for other in zipped[1:]:
        if len(other.values) != len(zipped[0].values):
            what = f"{other.key}: {len(other.values)} zipped values, and {zipped[0].key} has {len(zipped[0].values)}"
            draft.problem(other.path, what, "zipped lists vary together and need one length")

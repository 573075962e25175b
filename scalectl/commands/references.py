"""What `ref:NAME` means: a published table, fetched if need be, as the points of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import csv

from scalectl.core.cost import Convention
from scalectl.core.errors import UsageError
from scalectl.core.expression import full_name, parse
from scalectl.core.names import PUBLISHED, meant, shown
from scalectl.core.rows import Points
from scalectl.core.units import counted
from scalectl.references import REFERENCES, Reference, Table, fetch
from scalectl.report.words import CONVENTION
from scalectl.store.points import columns_points
from scalectl.store.schema import columns_of


@dataclass(frozen=True)
class Chosen:
    """A table that was asked for. name: as one would type it again, without `ref:`."""

    name: str
    reference: Reference
    table: Table

    @property
    def opening(self) -> str:
        """What it is and whom to cite."""
        return f"{self.reference.title}; {'; '.join(self.reference.cite)}; licence {self.reference.licence}"


def choose(text: str) -> Chosen:
    """The table that NAME or NAME/TABLE means; `text` without `ref:`.

    Raises: UsageError that lists what there is.
    """
    name, _, part = text.partition("/")
    reference = REFERENCES.get(name)
    if reference is None:
        guess = meant(name, REFERENCES)
        raise UsageError(
            f"no published table is known as {shown(text)}",
            where="there are " + ", ".join(_names()),
            remedy=f"did you mean {PUBLISHED}{guess}?" if guess else "a table of your own is a file: scalectl fit FILE",
        )
    if part and part not in reference.tables:
        guess = meant(part, reference.tables)
        raise UsageError(
            f"{name} has no table {shown(part)}",
            where=f"it has {', '.join(reference.tables)}",
            remedy=f"did you mean {PUBLISHED}{name}/{guess}?" if guess else None,
        )
    part = part or next(iter(reference.tables))
    full = name if len(reference.tables) == 1 else f"{name}/{part}"
    return Chosen(full, reference, reference.tables[part])


def _names() -> list[str]:
    found = []
    for name, reference in REFERENCES.items():
        first, *others = reference.tables
        found.append(f"{name} (/{first}, /{', /'.join(others)})" if others else name)
    return found


def file_of(chosen: Chosen) -> Path:
    """The table's file, fetched if it is not there. Raises: DataError."""
    return fetch(chosen.reference, chosen.table)


def points_of(
    chosen: Chosen,
    file: Path,
    convention: Convention | None,
    *,
    mapping: Mapping[str, str] | None = None,
    mask: Any = None,
    by: str | None = None,
) -> Points:
    """The table as the points of a fit.

    Args: convention: how N is to count; where the table has no such count, its own is taken and a note says so;
    mapping: columns for other axes or losses than the table's usual ones; mask: rows to keep; by: a column that the
    caller splits by.
    Raises: UsageError for rows that may not be pooled, and as `table_points`.
    """
    table = chosen.table
    columns = columns_of(csv.read_csv(file))  # its bytes are known: not pandas, which takes .4 s to import
    counts = convention if convention in table.counts else next(iter(table.counts))
    columns["N"] = np.asarray(parse(table.counts[counts]).evaluate(columns), dtype=np.float64)
    origin = f"{PUBLISHED}{chosen.name}"
    points = columns_points(columns, {"N": "N", **table.columns, **(mapping or {})}, mask, origin)
    _refuse_pooling(chosen, points, by)
    notes = [table.note] if table.note else []
    if table.count_by is None and counts != convention and counts is not None and convention is not None:
        notes.append(f"N counts {CONVENTION[counts]} parameters: the table has no {CONVENTION[convention]} count")
    points = replace(points, convention=counts, flops="6nd" if counts else None, notes=(*points.notes, *notes))
    return with_convention(chosen, points)


def with_convention(chosen: Chosen, points: Points) -> Points:
    """The points with how their N counts, where a column of the table says it and all of them agree."""
    if chosen.table.count_by is None:
        return points
    column, known = chosen.table.count_by
    values = set(points.columns[column].tolist())
    counts = known.get(values.pop()) if len(values) == 1 else None
    return replace(points, convention=counts, flops="6nd" if counts else None)


def _refuse_pooling(chosen: Chosen, points: Points, by: str | None) -> None:
    apart = chosen.table.apart
    if apart is None or (by is not None and full_name(by, tuple(points.columns)) == apart):
        return
    values = sorted(set(points.columns[apart].tolist()))
    if len(values) > 1:
        raise UsageError(
            f"{PUBLISHED}{chosen.name} holds {counted(len(values), 'data set')} that are never pooled",
            where=f"{apart} is {', '.join(map(str, values))}",
            remedy=f"choose one with --where '{apart} == \"{values[0]}\"', or split with --by {apart}",
        )

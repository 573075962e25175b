"""What a published table is: where it comes from, what its columns mean, and what its authors found in it.

The tables themselves are no part of scalectl. One is fetched when it is first asked for, checked against its sha256,
and kept in a folder.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scalectl.core.cache import cache_folder
from scalectl.core.cost import Convention
from scalectl.core.errors import DataError

Interval = tuple[float, float]
FETCH = 30.0  # seconds without an answer until a server counts as out of reach. Ours.


@dataclass(frozen=True)
class Published:
    """A fit of a law as its authors give it.

    name: who and where; params: as printed, so that their digits are known, a logarithm under a name such as "ln A";
    objective: as after --objective; convention: how its N counts; law: as after --law; value: of the objective, as they
    give it; where: the rows that it was fitted to, None for all.
    """

    name: str
    params: Mapping[str, str]
    objective: str
    convention: Convention | None
    law: str = "chinchilla"
    value: float | None = None
    where: str | None = None


@dataclass(frozen=True)
class PublishedExponent:
    """An exponent a of N* ~ C^a as its authors give it.

    approach: 1 envelope of training curves, 2 isoFLOP parabolas, 3 joint fit; interval: as stated; level: its
    confidence; where: the rows that it was read off, None for all; interpolated: whether minima of interpolants stand
    for those of parabolas.
    """

    name: str
    approach: int
    a: float
    interval: Interval
    level: float = 0.95
    where: str | None = None
    interpolated: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    file: its place below the folder of tables; sha256: of its bytes there; url: where it is served, None where the
    publisher has it in pieces or in a form that is not safe to open, and then `made` says in which (a .jsonl file
    becomes the CSV table on arrival); columns: names of the columns that are D, C and L,
    or S for a score; counts: N by convention, an
    expression over the columns; None as a key for a count that scalectl has no name for; count_by: a column that says
    how N counts, and the convention of its values; apart: a column whose values are never pooled; note: what its
    reader has to know; holds: what is measured; fits, exponents: what was published about it.
    """

    file: str
    sha256: str
    url: str | None
    columns: Mapping[str, str]
    counts: Mapping[Convention | None, str]
    made: str = ""
    count_by: tuple[str, Mapping[str, Convention]] | None = None
    apart: str | None = None
    note: str = ""
    holds: Literal["losses", "scores"] = "losses"
    fits: tuple[Published, ...] = ()
    exponents: tuple[PublishedExponent, ...] = ()


@dataclass(frozen=True)
class Reference:
    """The published tables of one paper; the first is the one that the name alone means.

    name: as after `ref:`; title: what they hold; cite: the papers; origin: repository and commit; licence: there.
    """

    name: str
    title: str
    cite: tuple[str, ...]
    origin: str
    licence: str
    tables: Mapping[str, Table] = field(repr=False)


def folder() -> Path:
    """Where tables lie: SCALECTL_REFERENCES, else `references` in the cache. It need not exist, nor be writable."""
    own = os.environ.get("SCALECTL_REFERENCES")
    return Path(own) if own else cache_folder() / "references"


def fetch(reference: Reference, table: Table) -> Path:
    """The table's file, fetched if it is not there.

    Raises: DataError if it cannot be had, or is not what it is said to be.
    """
    path = folder() / table.file
    what = f"the table {table.file} of {reference.name}"
    if not path.is_file():
        if table.url is None:
            raise DataError(
                f"{what} is not served as one file: {table.made}",
                where=reference.origin,
                remedy=f"where you have it, set SCALECTL_REFERENCES to the folder with {table.file}",
            )
        _download(table, path, what)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != table.sha256:
        again = (
            "remove it, and the next command fetches it" if table.url else "its numbers would not be the published ones"
        )
        raise DataError(
            f"this is not {what}: its sha256 is {found[:16]}…, not {table.sha256[:16]}…",
            where=str(path),
            remedy=f"{again}; a table of your own is fitted as a file: scalectl fit FILE",
        )
    return path


def _download(table: Table, path: Path, what: str) -> None:
    import pooch  # .4 s, which only a download pays

    assert table.url is not None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as place:
            as_served = table.url.endswith(".csv")
            known = f"sha256:{table.sha256}" if as_served else None
            held = Path(
                pooch.retrieve(
                    table.url, known, fname="served", path=place, downloader=pooch.HTTPDownloader(timeout=FETCH)
                )
            )
            if not as_served:
                import pandas as pd

                held.with_name("table").write_text(pd.read_json(held, lines=True).to_csv(index=False))
                held = held.with_name("table")
                found = hashlib.sha256(held.read_bytes()).hexdigest()
                if found != table.sha256:
                    raise ValueError(f"its sha256 as CSV is {found[:16]}…, not {table.sha256[:16]}…")
            held.replace(path)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum is a ValueError
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{what} cannot be fetched: {said[:160]}",
            where=table.url,
            remedy=f"save it as {path}, or set SCALECTL_REFERENCES to a folder with {table.file}",
        ) from error

"""`from scalectl import load, frame, fit, confint, predict`: the command line's functions for a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from scalectl.commands.fit import Request
from scalectl.commands.fit import load as load_request
from scalectl.commands.target import find_target
from scalectl.core.cost import Convention
from scalectl.core.rows import Points
from scalectl.fit.page import confint, fit, predict
from scalectl.store.points import frame

if TYPE_CHECKING:
    from scalectl.report.views import Flops

__all__ = ["confint", "fit", "frame", "load", "predict"]


def load(
    target: str | None = None,
    *,
    metric: str = "held-out/loss",
    at: str = "last",
    map: Mapping[str, str] | None = None,
    where: str | None = None,
    convention: Convention = "non_embedding",
    flops: Flops = "6nd",
    all: bool = False,
    results: str | None = None,
) -> Points:
    """The runs of a TARGET as input of a fit: a sweep of the store, a shipped one, or a table in a file.

    Args: as the flags of `scalectl fit`; map: axis (N, D, C, L) to column of a file; results: the store.
    Returns: arrays N [parameters], D [tokens], C [FLOP], L [nats/token], each (n,) or None; `columns`: everything
    else, by name; `notes`: what to know of them; `take(mask)`: some of them. `frame` makes a table of them.
    Raises: NothingMatched, UsageError, StoreError, as the command line says.
    """
    maps = tuple(f"{axis}={column}" for axis, column in (map or {}).items())
    request = Request(
        target, results, metric=metric, at=at, maps=maps, where=where, convention=convention, flops=flops, all=all
    )
    return load_request(request, find_target(target, results))

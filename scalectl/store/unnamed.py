"""Which columns of somebody's table are settings that a fit must not pool, and which are measurements or names.

Stored runs say it by their names (model., data., train., eval.). A table does not, and its columns are judged by what
their values do at equal N and D: those of a setting come back, few of them, from cell to cell or from seed to seed;
those of a measurement differ in every row, and so do names, ids and times.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from scalectl.core.rows import Points

Ints = npt.NDArray[np.int64]

# Rows for each distinct value from which on values come back. A measurement has one for each row. Ours.
COME_BACK = 2.0
# Distinct numbers for each that the fullest cell has. A grid is the same in every cell or moves a little with the size;
# rounded measurements of many cells are many more than those of one. Ours.
SPREAD = 3.0
REPEATED = 1.5  # rows for each distinct number in a cell: a setting that several seeds share. Ours.

# What is a setting even where every run has a value of its own, as a random search gives it: words of a name.
_SETTINGS = {"lr", "wd", "warmup", "dropout", "momentum", "beta1", "beta2", "bs", "optimizer", "optimiser"}
_PAIRS = {("learning", "rate"), ("weight", "decay"), ("batch", "size"), ("batch", "tokens")}
# Numbers that are measured, also where they are rounded to a few values, and where and when a run was made, which
# touches no loss.
_MEASURED = {"loss", "err", "error", "acc", "accuracy", "score", "ppl", "perplexity", "bpb", "std", "se"}
_MEASURED |= {"correct", "right", "wrong", "hits", "match", "matches", "f1", "em", "bleu", "nll", "logprob", "brier"}
_ELSEWHERE = {"time", "timestamp", "date", "seconds", "hours", "host", "hostname", "node", "nodes", "gpu", "gpus"}
_ELSEWHERE |= {"device", "user", "throughput", "speed", "memory"}


def hidden_axes(points: Points, cell: Ints) -> tuple[str, ...]:
    """The columns among `points.unnamed` that look like a setting which varies inside a cell, in their order.

    Args: cell: of each point, (n,): points of one cell should differ by their seeds alone.
    """
    return tuple(name for name in points.unnamed if _is_setting(name, points.columns[name], cell))


def _is_setting(name: str, values: npt.NDArray[Any], cell: Ints) -> bool:
    words = re.findall(r"[a-z]+[0-9]*|[0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    known = bool(_SETTINGS & set(words)) or any(pair in _PAIRS for pair in itertools.pairwise(words))
    in_words = values.dtype.kind not in "iuf"
    if not known and (_ELSEWHERE & set(words) or (_MEASURED & set(words) and not in_words)):
        return False
    code = codes(values)
    pairs = np.unique(np.stack([cell, code]), axis=1)
    distinct = np.bincount(pairs[0], minlength=int(cell.max()) + 1)  # values in each cell
    several = distinct > 1
    if not several.any():
        return False
    inside = several[cell]
    rows, different, fullest = int(inside.sum()), len(np.unique(code[inside])), int(distinct.max())
    if known:
        return True
    if rows < COME_BACK * different:
        return False
    repeated = rows >= REPEATED * int(distinct[several].sum())
    return in_words or repeated or different <= SPREAD * fullest


def codes(values: npt.NDArray[Any]) -> Ints:
    """Small integers that are equal where the values are; NaN and None equal themselves."""
    if values.dtype == object:
        values = np.array([f"{type(value).__name__}:{value}" for value in values])
    return np.unique(values, return_inverse=True)[1].astype(np.int64)

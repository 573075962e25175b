"""What a column says by its name: a score, a loss, a perplexity; and -log p of a continuous twin."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from scalectl.commands.measured import Series
from scalectl.core.rows import Floats
from scalectl.emergence.curve import MOST_ITEMS

# Words of a name, each whole, that make it a loss; those of _PERPLEXITIES are exp of one, those of _UNITS make none of
# what counts right answers.
_PERPLEXITIES = frozenset(("ppl", "perplexity", "perplexities"))
_LOSSES = _PERPLEXITIES.union(
    ("loss", "losses", "logloss", "nll", "bpb", "bpc", "ce", "xent", "entropy", "crossentropy", "surprisal")
)
_UNITS = frozenset(("bits", "nats"))
_RIGHT = frozenset(("correct", "right", "match", "accuracy", "acc", "score"))
_IN_BITS = frozenset(("bits", "bpb", "bpc"))
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def _words(name: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(name))


def is_loss(name: str) -> bool:
    """Whether a column of this name holds a loss, or exp of one."""
    words = _words(name)
    return not _LOSSES.isdisjoint(words) or (not _UNITS.isdisjoint(words) and _RIGHT.isdisjoint(words))


def is_perplexity(name: str) -> bool:
    """Whether a column of this name holds exp of a loss."""
    return not _PERPLEXITIES.isdisjoint(_words(name))


def measures_of(name: str) -> Literal["score", "loss"]:
    """What a column of this name holds."""
    return "loss" if is_loss(name) else "score"


def log_of(perplexity: Floats) -> Floats:
    """The loss behind perplexities [nats]; NaN or -inf where they are none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.log(perplexity))


def with_twins_read(series: Sequence[Series]) -> tuple[list[Series], list[str]]:
    """The series with -log p for the values of their twin, and how these were read, as one sentence.

    All of them are one column, and read in one way: by its name, and where that says nothing by its values. All below 0
    are a log-probability; those in [0, 1] that rise with the score are a probability; all else is a loss.
    """
    twins = [one.twin for one in series if one.twin is not None]
    if not twins:
        return list(series), []
    name = next(one.twin_name for one in series if one.twin is not None).rpartition("/")[2]
    values = np.concatenate(twins)
    known = values[np.isfinite(values)]
    read: Callable[[Floats, Floats | None], Floats]
    if is_perplexity(name):
        what, read = "the log of a perplexity", lambda twin, _: log_of(twin)
    elif is_loss(name):
        in_bits = not _IN_BITS.isdisjoint(_words(name))
        what = f"a loss [{'bits' if in_bits else 'nats'}]"
        read = lambda twin, _: twin * (np.log(2) if in_bits else 1)  # noqa: E731
    elif (known <= 0).all():
        what, read = "a log-probability", lambda twin, _: -twin
    elif (known >= 0).all() and (known <= 1).all() and sum(map(_together, series)) >= 0:
        decimals = _decimals(known)
        what, read = "a probability", lambda twin, items: _surprise(twin, items, decimals)
    else:
        what, read = "a loss [nats]", lambda twin, _: twin
    found = [one if one.twin is None else replace(one, twin=read(one.twin, one.items)) for one in series]
    return found, [f"twin {name} read as {what}"]


def _surprise(share: Floats, items: Floats | None, decimals: int) -> Floats:
    """-log p of shares; those that reach 0 or 1 are taken off it by half an item, or by half of the last decimal."""
    end = 0.5 / (np.full(len(share), MOST_ITEMS) if items is None else np.where(items > 0, items, MOST_ITEMS))
    end = np.maximum(end, 0.5 * 10.0**-decimals)
    return np.asarray(-np.log(np.clip(share, end, 1 - end)))


def _decimals(values: Floats) -> int:
    """To how many decimals, at least two, somebody has rounded all of the values; more than anybody prints if none."""
    return next((n for n in range(2, 6) if (np.round(values, n) == values).all()), 16)


def _together(series: Series) -> float:
    """How far a twin rises with its score: their correlation times the number of measurements."""
    if series.twin is None:
        return 0.0
    known = np.isfinite(series.twin) & np.isfinite(series.score)
    if not known.any():
        return 0.0
    twin, score = series.twin[known], series.score[known]
    twin, score = twin - twin.mean(), score - score.mean()
    spread = float(np.sqrt((twin**2).sum() * (score**2).sum()))
    return float(twin @ score) / spread * len(twin) if spread > 0 else 0.0

"""What a script says of itself, in lines of JSON or in what it prints, as rows: each step once, nothing invented.

{"step": 100, "loss": 3.21}                              a loss, held-out where no row of it says "split": "held-out"
{"step": 100, "metric": "accuracy", "value": 0.4, "split": "test", "tokens": 6400, "flops": 1e9}
{"N": 123456}                                            parameters; D [tokens] and C [FLOP] likewise
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalectl.core.names import shown
from scalectl.core.rows import HELD_OUT, LOSS, Row
from scalectl.core.run import CommandRun
from scalectl.store.files import no_link

Key = tuple[int, str, str]
COUNTS = ("N", "D", "C")
BEYOND = 2**63  # integers are 64 bits in the store


class Tail:
    """The whole lines of a file that grows; one that was begun anew is read from its start."""

    def __init__(self, path: Path, at: int = 0) -> None:
        self.path = path
        self.at = at

    def lines(self, *, last: bool = False) -> list[bytes]:
        """Lines since the last call. last: one without an end, too. Raises: StoreError for a link in its place."""
        try:
            with open(self.path, "rb", opener=no_link) as file:
                size = file.seek(0, 2)
                self.at = self.at if self.at <= size else 0
                file.seek(self.at)
                text = file.read()
        except FileNotFoundError:
            return []
        *whole, rest = text.split(b"\n")
        self.at += len(text) if last else len(text) - len(rest)
        return [*whole, rest] if last and rest.strip() else whole


def said(line: bytes) -> Mapping[str, Any] | None:
    """What a line of JSON says; None if it is no object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def printed(pattern: re.Pattern[str], line: bytes) -> Mapping[str, Any] | None:
    """What a printed line says by the named groups of an expression; None if it does not match."""
    match = pattern.search(line.decode(errors="replace"))
    return None if match is None else {name: text for name, text in match.groupdict().items() if text is not None}


@dataclass
class Heard:
    """Rows of one attempt at a run, and those before it that it has not taken back.

    known: rows so far, by step, split and metric; clock: seconds of this attempt; began: whether it has said a row;
    before: seconds trained for the rows that it goes on from; fresh: rows that are not on disk yet; cut: whether rows
    that were on disk are not to stand any more; counts: N, D and C as the script says them; no_counts: those that it
    cannot have; unread: lines that said nothing; diverged: how a loss that is not finite came about; unmarked: rows
    that are held-out because they name no split; marked: metrics of which other rows say that they are, so that those
    are not; left_out: how many of them there were.
    """

    run: CommandRun
    known: dict[Key, Row]
    clock: Callable[[], float]
    began: bool = False
    before: float = 0.0
    fresh: list[Row] = field(default_factory=list)
    cut: bool = False
    counts: dict[str, float] = field(default_factory=dict)
    no_counts: dict[str, str] = field(default_factory=dict)
    unread: int = 0
    diverged: str = ""
    unmarked: set[Key] = field(default_factory=set)
    marked: set[str] = field(default_factory=set)
    left_out: int = 0

    def hear(self, found: Mapping[str, Any] | None) -> None:
        """Take in what a line says.

        The first row of an attempt shows where the script goes on: what an earlier one said of that step and of later
        ones is replaced. In one attempt the later of two rows of one step counts. A row without a split is held-out
        unless others of its metric say that they are: then it is left out, as a loss of the training would be.
        """
        counts = {} if found is None else {name: found[name] for name in COUNTS if name in found}
        for name, text in counts.items():
            number = _number(text)
            if number is not None and 0 < number < (math.inf if name == "C" else BEYOND):
                self.counts[name] = number
            else:
                self.no_counts[name] = shown(text)
        row = None if found is None or self.diverged else self._row(found)
        if row is None:
            self.unread += not counts and not self.diverged
            return
        if not self.began:
            self.began = True
            later = [key for key in self.known if key[0] >= row.step]
            for key in later:
                del self.known[key]
            self.cut = self.cut or bool(later)
            self.before = max((held.seconds for held in self.known.values()), default=0.0)
        if not math.isfinite(row.value):
            if row.metric == LOSS:
                before = max((r for r in self.known.values() if r.metric == LOSS), key=lambda r: r.step, default=None)
                was = "" if before is None else f"{before.value:.4g} -> "
                self.diverged = f"diverged at step {row.step} (loss {was}{row.value})"
            else:
                self.unread += 1
            return
        if not self._is_held_out(row, named="split" in (found or {})):
            return
        row = row._replace(seconds=self.seconds())
        self.known[row.step, row.split, row.metric] = row
        self.fresh.append(row)

    def _is_held_out(self, row: Row, *, named: bool) -> bool:
        """Whether a row is of the split that it has, which it may have for want of another."""
        key = row.step, row.split, row.metric
        if row.split != HELD_OUT:
            return True
        if not named and row.metric in self.marked:
            self.left_out += 1
            return False
        if not named:
            self.unmarked.add(key)
            return True
        if row.metric not in self.marked:
            self.marked.add(row.metric)
            wrong = {held for held in self.unmarked if held[2] == row.metric}
            for held in wrong & self.known.keys():
                del self.known[held]
            self.unmarked -= wrong
            self.fresh = [held for held in self.fresh if (held.step, held.split, held.metric) not in wrong]
            self.left_out += len(wrong)
            self.cut = self.cut or bool(wrong)
        return True

    def seconds(self) -> float:
        """Trained so far, by this attempt and for the rows that it goes on from: all, until it has said one."""
        before = self.before if self.began else max((row.seconds for row in self.known.values()), default=0.0)
        return before + self.clock()

    def again(self, found: Mapping[str, Any] | None) -> None:
        """Take in a line of an attempt that died, unless it is on disk already."""
        row = None if found is None else self._row(found)
        there = None if row is None else self.known.get((row.step, row.split, row.metric))
        if row is not None and there is not None and there.value == row.value:
            self.began = True
        else:
            self.hear(found)

    def _row(self, found: Mapping[str, Any]) -> Row | None:
        step = _number(found.get("step"))
        named = "metric" in found
        metric = found["metric"] if named else LOSS
        split = found.get("split", HELD_OUT)
        key = "value" if named else LOSS
        value = math.nan if key in found and found[key] is None else _number(found.get(key), finite=False)
        tokens, flops = (_number(found.get(name, 0)) for name in ("tokens", "flops"))
        words = all(
            isinstance(word, str) and word and "/" not in word and word.isprintable() for word in (metric, split)
        )
        if step is None or value is None or tokens is None or flops is None or not words:
            return None
        if step < 0 or tokens < 0 or flops < 0 or step != int(step) or max(step, tokens) >= BEYOND:
            return None
        return Row(self.run.run_id, int(step), round(tokens), flops, split, metric, value, 0.0)


def _number(value: object, *, finite: bool = True) -> float | None:
    """A number, or a text that reads as one, as printed rows give it; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) or not finite else None


def completed(rows: Iterable[Row], counts: Mapping[str, float | None], steps: int | None) -> list[Row]:
    """Rows with the tokens and FLOPs that the script did not give, in proportion to its steps.

    FLOPs are those of C, else 6 N for each token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).

    Args: counts: N, D and C of the whole run; steps: of the whole run, None where nobody knows: then zeros stay.
    """
    N, D, C = (counts.get(name) for name in COUNTS)
    found = []
    for row in rows:
        share = row.step / steps if steps else None
        tokens, flops = row.tokens, row.flops
        if not tokens and D is not None and share is not None:
            tokens = round(D * share)
        if not flops and C is not None and share is not None:
            flops = C * share
        elif not flops and C is None and N is not None:
            flops = 6 * N * tokens
        found.append(row._replace(tokens=tokens, flops=flops))
    return found

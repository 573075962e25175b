"""Learning rates of muP, written "mup:RATE": plain rates, and a base width among the model's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalectl.core.names import shown
from scalectl.models import Model
from scalectl.optim import Optimizer
from scalectl.sweep.draft import Draft, Entry

MUP = "mup:"  # before a learning rate: of the model's muP base width, the same for all widths


class BaseWidths:
    """Which grids of a file have rates of muP, and which base widths mean nothing."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.used = False  # some grid has a learning rate of muP
        self.deaf: list[Entry] = []  # base widths of grids that have none

    def plain(
        self, raw: Mapping[str, Mapping[str, Entry]], model: Model | None, optimizer: Optimizer | None
    ) -> Mapping[str, Mapping[str, Entry]]:
        """A grid whose rates are written "mup:RATE", as plain rates and a base width in the model's table.

        Its base width is taken from a grid without such rates: there it means nothing.
        """
        entry, own = raw["train"].get("lr"), dict(raw["model"])
        word = next(iter(entry.raw)) if entry and isinstance(entry.raw, dict) and len(entry.raw) == 1 else None
        held = entry.raw[word] if entry and word in ("grid", "zip") else entry.raw if entry and word is None else None
        rates = held if isinstance(held, list) else [held]
        told = [isinstance(rate, str) and rate.startswith(MUP) for rate in rates]
        if entry is None or not any(told):
            if "mup_base_width" in own:
                self.deaf.append(own.pop("mup_base_width"))
            return {**raw, "model": own}
        self.used = True
        if not all(told):
            what = "train.lr: rates of muP and others in one grid"
            remedy = f'write "{MUP}RATE" for each, or give the others a [[block]] of their own'
            self.draft.problem(entry.path, what, remedy)
        for member, defined, kind in (
            (model, model is not None and model.mup_base_width > 0, "family"),
            (optimizer, optimizer is not None and optimizer.rate is not None, "optimizer"),
        ):
            if member is not None and not defined:
                what = f"train.lr: muP is not defined for {kind} {member.name}"
                self.draft.problem(entry.path, what, "give a plain rate")
        if model is not None and model.mup_base_width:
            own.setdefault("mup_base_width", Entry(model.mup_base_width, entry.path))
        plain: list[Any] = []
        for rate in rates:
            number = _number(rate.removeprefix(MUP)) if isinstance(rate, str) else rate
            if number is None:
                what = f"train.lr: {shown(rate)} has no number behind {MUP}"
                self.draft.problem(entry.path, what, f'write lr = "{MUP}0.003", or a plain rate')
            plain.append(0.003 if number is None else number)
        rate = plain[0] if word is None else {word: plain}
        return {**raw, "model": own, "train": {**raw["train"], "lr": Entry(rate, entry.path)}}

    def check(self) -> None:
        """A base width in a file without a rate of muP is a mistake; in one with some it belongs to them."""
        if not self.used:
            for entry in self.deaf:
                what = "model.mup_base_width means nothing without a learning rate of muP"
                self.draft.problem(entry.path, what, f'write lr = "{MUP}RATE", or leave it out', key=True)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None

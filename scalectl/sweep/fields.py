"""What each key of a sweep file may hold, read off the members' own Options, and the check of one value.

Every number is finite and not negative (ours: no key of a sweep file means anything below zero, but for parameters of
somebody's script); `BOUNDS` says what else.
"""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from scalectl.core.names import did_you_mean, shown

LARGEST = 2**63 - 1  # integers are 64 bits in TOML and in the store


class _Missing:
    """The default of a key that has none."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = _Missing()


@dataclass(frozen=True)
class Bounds:
    """Limits of a number, both allowed unless open: above excludes low, below excludes high."""

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    below: bool = False


POSITIVE = Bounds(above=True)
AT_LEAST_ONE = Bounds(low=1)
SHARE = Bounds(high=1)
COUNT = Bounds(low=1, high=2.0**63, below=True)

BOUNDS = {
    "data.unique_tokens": AT_LEAST_ONE,
    "data.symbols": Bounds(low=2, high=256),  # ours: a table of symbols^3 integers; at 256 it takes 134 MB
    "data.length": AT_LEAST_ONE,
    "data.problems": AT_LEAST_ONE,
    "data.alpha": Bounds(high=10),
    "data.images": AT_LEAST_ONE,
    "data.vocab": Bounds(low=2, high=1 << 32),
    "model.mup_base_width": AT_LEAST_ONE,
    "train.tokens": POSITIVE,
    "train.tokens_per_param": POSITIVE,
    "train.flops": POSITIVE,
    "train.steps": AT_LEAST_ONE,
    "train.batch_tokens": AT_LEAST_ONE,
    "train.lr": POSITIVE,
    "train.adamw_lr": POSITIVE,
    "train.momentum": Bounds(high=1, below=True),
    "train.beta1": Bounds(high=1, below=True),
    "train.beta2": Bounds(high=1, below=True),
    "train.eps": POSITIVE,
    "train.decay": SHARE,
    "train.final": SHARE,
    "eval.every": AT_LEAST_ONE,
    "eval.tokens": AT_LEAST_ONE,
    "run.N": COUNT,
    "run.D": COUNT,
    "run.C": POSITIVE,
    "run.steps": AT_LEAST_ONE,
    "runtime.micro_batch": AT_LEAST_ONE,
    "runtime.slots": AT_LEAST_ONE,
    "runtime.checkpoint_seconds": POSITIVE,
    "runtime.threads": AT_LEAST_ONE,
    "budget.device_hours": POSITIVE,
    "slurm.cpus": AT_LEAST_ONE,
    "ray.cpus": AT_LEAST_ONE,
    "ray.pilots": AT_LEAST_ONE,
    "slurm.jobs": AT_LEAST_ONE,
    "slurm.max_array": AT_LEAST_ONE,
}

Kind = Literal["integer", "number", "truth", "text", "choice", "texts", "scalar"]


@dataclass(frozen=True)
class Field:
    """One key. default: MISSING if the file has to say it; word: a text that stands for None, such as "auto"."""

    key: str
    kind: Kind
    default: Any = MISSING
    choices: tuple[str, ...] = ()
    word: str | None = None

    @property
    def numeric(self) -> bool:
        """Whether a rule can give it."""
        return self.kind in ("integer", "number", "scalar")

    def check(self, value: object) -> Any:
        """Return the value in the key's own type.

        Raises: ValueError with a sentence that begins with the value; its second argument, if any, is the remedy.
        """
        if self.word is not None and value == self.word:
            return None
        if self.kind == "integer":
            return self._integer(value)
        if self.kind == "number":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{shown(value)} is not a number")
            return self._bounded(self._finite(value))
        if self.kind == "truth":
            if not isinstance(value, bool):
                raise ValueError(f"{shown(value)} is neither true nor false")
            return value
        if self.kind == "scalar" and not isinstance(value, str):
            return self._scalar(value)
        if self.kind == "texts":
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise ValueError(f"{shown(value)} is not a list of texts")
            return tuple(value)
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)} is not a text")
        if self.kind == "choice" and value not in self.choices:
            hint = did_you_mean(value, self.choices)
            raise ValueError(f"{shown(value)} is not one of {', '.join(self.choices)}", hint)
        if not value.isprintable():
            raise ValueError(f"{shown(value)} holds characters that cannot be printed")
        return value

    def _integer(self, value: object) -> int:
        kind = f'an integer or "{self.word}"' if self.word else "an integer"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{shown(value)} is not {kind}")
        if not self._finite(value).is_integer():
            raise ValueError(f"{shown(value)} is not {kind}")
        return int(self._bounded(int(value)))

    def _scalar(self, value: object) -> bool | int | float:
        """A whole number is an integer however it was written: 1 and 1.0 are one argument of a script."""
        if isinstance(value, bool):
            return value
        if not isinstance(value, int | float):
            raise ValueError(f"{shown(value)} is not a number, a text, true or false")
        finite = self._finite(value)
        return int(value) if finite.is_integer() and abs(finite) <= LARGEST else finite

    @staticmethod
    def _finite(value: int | float) -> float:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"{shown(value)} is beyond 64 bits")
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return float(value)

    def _bounded(self, value: float) -> float:
        bounds = BOUNDS.get(self.key, Bounds())
        text = shown(int(value) if self.kind == "integer" else value)
        if value < 0:
            raise ValueError(f"{text} is negative")
        if value < bounds.low or (bounds.above and value == bounds.low):
            raise ValueError(
                f"{text} is too small; it has to be {'above' if bounds.above else 'at least'} {bounds.low:g}"
            )
        if value > min(bounds.high, LARGEST if self.kind == "integer" else math.inf) or (
            bounds.below and value == bounds.high
        ):
            raise ValueError(
                f"{text} is too large; it has to be {'below' if bounds.below else 'at most'} {bounds.high:g}"
            )
        return value


def fields_of(
    options: type[Any], table: str, *, without: tuple[str, ...] = (), word: str | None = None
) -> dict[str, Field]:
    """The keys of a table, from a frozen dataclass of options.

    Args: without: fields that are not the user's to set; word: stands for None in fields that may be None.
    Raises: TypeError for a field of a type that no sweep file can hold: a fault of the member, not of the file.
    """
    hints = get_type_hints(options)
    found = {}
    for held in dataclasses.fields(options):
        if held.name in without:
            continue
        default = MISSING if held.default is dataclasses.MISSING else held.default
        if held.default_factory is not dataclasses.MISSING:
            default = held.default_factory()
        key = f"{table}.{held.name}"
        kind, choices, optional = _kind(hints[held.name])
        found[key] = Field(key, kind, default, choices, word if optional else None)
    return found


def _kind(hint: Any) -> tuple[Kind, tuple[str, ...], bool]:
    if get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in get_args(hint) if part is not type(None)]
        if len(parts) == 1:
            return (*_kind(parts[0])[:2], True)
    if get_origin(hint) is Literal:
        return "choice", tuple(map(str, get_args(hint))), False
    if hint == tuple[str, ...]:
        return "texts", (), False
    kinds: dict[Any, Kind] = {int: "integer", float: "number", bool: "truth", str: "text"}
    if hint not in kinds:
        raise TypeError(f"an option of type {hint} has no form in a sweep file")
    return kinds[hint], (), False

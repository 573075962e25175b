"""What a cell of a sweep is called, and how its values are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

SHORT_ID = 6  # characters of a run id in tables; commands accept any unique prefix


def short_names(keys: tuple[str, ...]) -> dict[str, str]:
    """Keys without their table where that stays unambiguous: model.d_model -> d_model."""
    last = Counter(key.rpartition(".")[2] for key in keys)
    return {key: key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 else key for key in keys}


def show(value: object, key: str = "") -> str:
    """A cell value as people write it: 0.003, 128, 3.2e6, wsd; a base width of muP, or none, as what it means."""
    if key.rpartition(".")[2] == "mup_base_width":
        return f"mup {value}" if value else "standard"
    if not isinstance(value, float):
        return str(value)
    if value.is_integer() and abs(value) < 1e5:
        return str(int(value))
    mantissa, e, exponent = f"{value:.4g}".partition("e")
    return f"{mantissa}{e}{int(exponent)}" if e else mantissa


def label(cell: Mapping[str, object]) -> str:
    """A cell in one line: d_model=64 n_layer=2."""
    return " ".join(f"{key}={show(value, key)}" for key, value in cell.items())

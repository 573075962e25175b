"""Numbers as people read them: prefixes, durations, and as many digits as the interval supports."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scalectl.core.errors import UsageError

_LARGE = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
_COUNT = ("", "k", "M", "B", "T")
UNREACHABLE = 1e30  # parameters, tokens or FLOP: a bound beyond it is as good as none. Ours; the sun gives 1e26 W.


def si(value: float, unit: str = "", digits: int = 3) -> str:
    """With an SI prefix: 1.3e18, "FLOP" -> "1.3 EFLOP". Beyond yotta, and below 1, scientific: 5e27."""
    text = _scaled(value, _LARGE, digits)
    return f"{text}{unit}" if " " in text else f"{text} {unit}".strip()


def count(value: float, digits: int = 3) -> str:
    """A count of parameters or tokens: 1.38e6 -> "1.38 M", 7e9 -> "7 B", beyond 999 T scientific: "3e16"."""
    return _scaled(value, _COUNT, digits)


def counts(values: Sequence[float]) -> list[str]:
    """Counts in as many digits as tell those apart that differ: "1.384 M" and "1.379 M"; never fewer than `count`."""
    distinct = len(set(values))
    for digits in range(3, 17):
        words = [count(value, digits) for value in values]
        if len(set(words)) == distinct:
            break
    return words


def quantity(text: str) -> float:
    """A number as people type it: 1e9, 70M, 1.4B, 3 k. The prefixes are those of `count`, case-insensitive.

    Raises: UsageError for anything else, and for what is not positive and finite.
    """
    cut = text.strip().lower().replace("_", "")
    power = next((i for i, prefix in enumerate(_COUNT) if prefix and cut.endswith(prefix.lower())), 0)
    try:
        value = float(cut.removesuffix(_COUNT[power].lower())) * 1000.0**power
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"{text!r} is not a positive number", remedy="write 1e9, 70M or 1.4B")
    return value


def size(value: float, digits: int = 3) -> str:
    """Bytes in binary multiples: 2 ** 30 -> "1 GiB"."""
    if not math.isfinite(value):
        return str(value)
    power = 0
    while abs(value) >= 1024 and power < 6:
        value /= 1024
        power += 1
    return f"{_plain(value, digits)} {('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB')[power]}"


def duration(seconds: float) -> str:
    """A duration: 51 -> "0:51", 5025 -> "1:23:45", three days -> "3d 00:00"."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    days, rest = divmod(whole, 86_400)
    hours, rest = divmod(rest, 3_600)
    minutes, left = divmod(rest, 60)
    if days:
        return f"{days}d {hours:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def interval_digits(low: float, high: float) -> int:
    """Decimals after the point that show two digits of an interval's width; negative left of the point.

    Source: ours; two digits of the width keep a rounded bound within 5 % of the width of the true one.
    """
    width = abs(high - low)
    if not math.isfinite(width) or width == 0:
        return 4
    return 1 - math.floor(math.log10(width))


def rounded(value: float, decimals: int) -> str:
    """The value with that many decimals; no grouping, no exponent below 1e6."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1e6 or (value != 0 and abs(value) < 1e-4):
        return f"{value:.3g}"
    return f"{round(value, decimals):.{max(0, decimals)}f}"


def figures(value: float, digits: int = 3) -> str:
    """The value with so many significant digits, written as in a table of estimates: 12800, 1.16e+13."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    short = float(f"{value:.{digits}g}")
    return rounded(short, digits - 1 - math.floor(math.log10(abs(short))))


def estimate(value: float, low: float, high: float, *, powers: bool = False) -> tuple[str, str, str]:
    """Value and bounds to the digits that the interval supports.

    Rounding outwards never narrows the printed interval: low is rounded down, high up.
    Args: powers: of ten in what is large or small, so that a row of a table has one notation.
    """
    decimals = min(6, interval_digits(low, high))
    bounded = math.isfinite(low) and math.isfinite(high)
    if powers:

        def digits(number: float) -> int:
            if not bounded or number == 0:
                return 3
            return max(2, min(6, math.floor(math.log10(abs(number))) + 1 + decimals))

        down = float(_outwards(low, digits(low), down=True))
        up = float(_outwards(high, digits(high), down=False))
        return _power(value, digits(value)), _power(down, digits(low)), _power(up, digits(high))
    if not bounded or max(abs(low), abs(high)) >= 1e6:
        return f"{value:.4g}", _outwards(low, 3, down=True), _outwards(high, 3, down=False)
    scale = 10.0**decimals
    down = math.floor(low * scale + 1e-9) / scale
    up = math.ceil(high * scale - 1e-9) / scale
    places = max(0, decimals)
    return f"{value:.{places}f}", f"{down:.{places}f}", f"{up:.{places}f}"


def estimate_scaled(
    value: float, low: float, high: float, show: Callable[[float], str] = count
) -> tuple[str, str, str]:
    """Like `estimate` for quantities over many decades: all with the prefix of the value, "4.1 B".

    Bounds are rounded outwards to two digits; below one of what is counted to 0 and 1, from UNREACHABLE on to infinity.
    Args: show: `count` for parameters and tokens, `si` for FLOP.
    """
    down = float(_outwards(low, 2, down=True)) if low >= 1 else 0.0
    up = float(_outwards(max(high, 1.0), 2, down=False)) if high <= UNREACHABLE else math.inf
    shown = "<1" if 0 < value < 1 else show(value)
    if not math.isfinite(value):
        return shown, show(down), show(up)
    prefix = shown.partition(" ")[2]
    power = (_COUNT if show is count else _LARGE).index(prefix)

    def end(bound: float) -> str:
        small = bound / 1000.0**power
        if bound == 0 or math.isinf(bound):
            return f"{bound:g}"
        text = _plain(small, 2) if 0.001 <= small < 10_000 else exponential(small)
        return f"{text} {prefix}".strip()

    return shown, end(down), end(up)


def measured(value: float, error: float) -> tuple[str, str]:
    """A value and its standard error to two digits of the error, which is rounded up: 2.2893, 0.0041."""
    if not math.isfinite(error) or error <= 0:
        return f"{value:.4f}", "?"
    decimals = min(6, max(0, 1 - math.floor(math.log10(error))))
    up = math.ceil(error * 10.0**decimals - 1e-9) / 10.0**decimals
    return f"{value:.{decimals}f}", f"{up:.{decimals}f}"


def _outwards(bound: float, digits: int, *, down: bool) -> str:
    """A bound with so many significant digits, rounded away from the inside of its interval."""
    if bound == 0 or not math.isfinite(bound):
        return f"{bound:g}"
    scale = 10.0 ** (math.floor(math.log10(abs(bound))) - digits + 1)
    if not scale:  # of a number too small for so many digits
        return f"{bound:g}"
    steps = bound / scale
    outside = math.floor(steps + 1e-9) if down else math.ceil(steps - 1e-9)
    return f"{outside * scale:.{digits + 1}g}" if abs(outside) >= 10**digits else f"{outside * scale:.{digits}g}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 run", "3 runs"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: "E", "E and A", "E, A and alpha"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def exponential(value: float, digits: int = 2) -> str:
    """With a power of ten and no sign or zeros in it that say nothing: 2.9e168."""
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(power)}"


def _power(value: float, digits: int) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{digits}g}" if 1e-3 <= abs(value) < 1e3 else exponential(value, digits)


def percent(share: float, digits: int = 2) -> str:
    """A share as a percentage: 0.053 -> "5.3 %"."""
    return f"{_plain(100 * share, digits)} %"


def _scaled(value: float, prefixes: tuple[str, ...], digits: int) -> str:
    if not math.isfinite(value):
        return str(value)
    if value != 0 and abs(value) < 1:
        return f"{value:.{digits}g}"
    power, whole = 0, value
    while abs(value) >= 999.5 and power < len(prefixes) - 1:
        value /= 1000
        power += 1
    if abs(value) >= 999.5:
        return exponential(whole)
    text = _plain(value, digits)
    return f"{text} {prefixes[power]}" if prefixes[power] else text


def _plain(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

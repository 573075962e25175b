from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalectl.core import units

SIZES = st.floats(min_value=-1e5, max_value=1e5, allow_nan=False)
POSITIVE = st.floats(min_value=1e-3, max_value=1e27)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "FLOP", "0 FLOP"),
        (999, "FLOP", "999 FLOP"),
        (999.6, "FLOP", "1 kFLOP"),
        (1.3e18, "FLOP", "1.3 EFLOP"),
        (3.69e12, "", "3.69 T"),
        (5e27, "FLOP", "5e27 FLOP"),
        (0.02, "s", "0.02 s"),
        (math.nan, "FLOP", "nan FLOP"),
    ],
)
def test_prefixes_are_si(value: float, unit: str, text: str) -> None:
    assert units.si(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (17, "17"),
        (1_382_400, "1.38 M"),
        (7e9, "7 B"),
        (1.5e13, "15 T"),
        (999_999, "1 M"),
        (9.99e14, "999 T"),
        (2.93e168, "2.9e168"),
    ],
)
def test_counts_have_the_prefixes_of_the_field(value: float, text: str) -> None:
    assert units.count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (51, "0:51"), (59.6, "1:00"), (5025, "1:23:45"), (3 * 86_400, "3d 00:00"), (math.inf, "?")],
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(12846, "12800"), (-2410.3, "-2410"), (1.16e13, "1.16e+13"), (0.0453, "0.0453"), (99.96, "100"), (0.0, "0")],
)
def test_a_few_figures_are_written_as_a_table_of_estimates_writes_them(value: float, text: str) -> None:
    assert units.figures(value) == text


@pytest.mark.parametrize(
    ("numbers", "texts"),
    [
        ((562_300.0, 230_000.0, 820_000.0), ("5.6e5", "2.3e5", "8.2e5")),
        ((562_300.0, 0.593, 1.6e6), ("5.6e5", "0.59", "1.6e6")),
        ((1e6, 5e-324, 1e6), ("1e6", "4.9e-324", "1e6")),
        ((562_300.0, 0.0, math.inf), ("5.62e5", "0", "inf")),
        ((1.1e7, 9.09e6, 1.61e7), ("1.1e7", "9e6", "1.61e7")),
    ],
)
def test_a_row_with_a_large_number_has_powers_of_ten(numbers: tuple[float, ...], texts: tuple[str, ...]) -> None:
    assert units.estimate(*numbers, powers=True) == texts


@given(SIZES, SIZES, st.booleans())
def test_rounding_never_narrows_an_interval_and_widens_it_by_at_most_a_tenth_on_either_side(
    a: float, b: float, powers: bool
) -> None:
    low, high = min(a, b), max(a, b)
    _, down, up = units.estimate((low + high) / 2, low, high, powers=powers)
    width = high - low
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert float(down) <= low + slack
    assert float(up) >= high - slack
    if width > 1e-4:  # six decimals are shown at most
        assert float(down) >= low - 0.1 * width - slack
        assert float(up) <= high + 0.1 * width + slack


@given(POSITIVE, POSITIVE)
def test_bounds_with_prefixes_are_rounded_outwards_too(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    _, down, up = units.estimate_scaled(math.sqrt(low) * math.sqrt(high), low, high, units.si)
    assert _number(down) <= low * (1 + 1e-6)
    assert _number(up) >= high * (1 - 1e-6)


@pytest.mark.parametrize("bounds", [(-math.inf, 2.5e6), (3.14159e6, 7.77777e7), (0.0, math.inf)])
def test_large_and_open_bounds_are_rounded_outwards(bounds: tuple[float, float]) -> None:
    _, down, up = units.estimate(1.0, *bounds)
    assert float(down) <= bounds[0]
    assert float(up) >= bounds[1]


@given(st.floats(min_value=0.1, max_value=20), st.floats(min_value=1e-5, max_value=1))
def test_a_standard_error_is_never_understated(value: float, error: float) -> None:
    shown, spread = units.measured(value, error)
    assert error * (1 - 1e-9) - 1e-9 <= float(spread) <= 1.11 * error + 1e-6
    assert abs(float(shown) - value) <= error


def test_a_value_without_an_error_says_so() -> None:
    assert units.measured(2.289, math.nan) == ("2.2890", "?")


@pytest.mark.parametrize(
    ("value", "low", "high", "texts"),
    [
        (2.9e12, 5.8e-162, 2.9e168, ("2.9 T", "0", "inf")),
        (0.3, 0.0, 0.7, ("<1", "0", "1")),
        (3.21e40, 1.26e17, math.inf, ("3.2e40", "1.2e17", "inf")),
        (5e16, 1e3, 1.11e29, ("5e16", "1000", "1.2e29")),
        (13.5e6, 14.0, 3.5e7, ("13.5 M", "1.4e-5 M", "35 M")),
        (1.23e8, 4.72e7, 1.2e14, ("123 M", "47 M", "1.2e8 M")),
        (2e9, 8e8, 3.05e9, ("2 B", "0.8 B", "3.1 B")),
        (math.inf, math.nan, math.nan, ("inf", "0", "inf")),
    ],
)
def test_counts_beyond_anything_stay_short(value: float, low: float, high: float, texts: tuple[str, ...]) -> None:
    assert units.estimate_scaled(value, low, high) == texts


@pytest.mark.parametrize(("number", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs")])
def test_one_of_a_kind_is_singular(number: int, text: str) -> None:
    assert units.counted(number, "run") == text


def _number(text: str) -> float:
    """Reads "4.1 G" back."""
    number, _, prefix = text.partition(" ")
    return float(number) * 1000.0 ** ("", "k", "M", "G", "T", "P", "E", "Z", "Y").index(prefix)


def test_names_are_listed_as_in_a_sentence():
    listed = [units.listed(names) for names in (["E"], ["E", "A"], ["E", "A", "alpha"])]
    assert listed == ["E", "E and A", "E, A and alpha"]


def test_counts_that_differ_are_told_apart():
    assert units.counts([1384000, 1379000, 7e10]) == ["1.384 M", "1.379 M", "70 B"]
    assert units.counts([5000, 6000, 5000]) == ["5 k", "6 k", "5 k"]

"""Numbers that carry their first and second derivatives: a law written once, in plain numpy, has exact ones.

A `Jet` is a value with its Taylor coefficients of first and second order in the parameters (truncated Taylor
arithmetic; Griewank and Walther 2008, Evaluating Derivatives, chapter 13). numpy's functions act on it through
`__array_ufunc__`, so that one and the same `predict` runs on real numbers, on complex ones and on jets.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

Order = dict[Any, Any]


class Jet(NDArrayOperatorsMixin):
    """A value, its slopes by parameter number, and its second derivatives by pair (i, j), i <= j; zeros left out."""

    __slots__ = ("first", "second", "value")

    def __init__(self, value: Any, first: Order, second: Order) -> None:
        self.value = value
        self.first = first
        self.second = second

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            return NotImplemented
        if ufunc in _UNARY:
            return _compose(inputs[0], *_UNARY[ufunc](inputs[0].value))
        return _BINARY[ufunc](*inputs) if ufunc in _BINARY else NotImplemented


def _compose(x: Jet, value: Any, slope: Any, bend: Any) -> Jet:
    first = {i: slope * part for i, part in x.first.items()}
    second = {pair: slope * part for pair, part in x.second.items()}
    if bend is not None:
        bent = {i: bend * part for i, part in x.first.items()}
        for i, j in itertools.combinations_with_replacement(x.first, 2):
            pair = (i, j) if i <= j else (j, i)
            part = bent[i] * x.first[j]
            second[pair] = second[pair] + part if pair in second else part
    return Jet(value, first, second)


def _merge(a: Order, b: Order, sign: float = 1.0) -> Order:
    merged = dict(a)
    for key, part in b.items():
        part = part if sign == 1.0 else sign * part
        merged[key] = merged[key] + part if key in merged else part
    return merged


def _added(a: Any, b: Any, sign: float = 1.0) -> Jet:
    if not isinstance(a, Jet):
        return Jet(a + sign * b.value, _merge({}, b.first, sign), _merge({}, b.second, sign))
    if not isinstance(b, Jet):
        return Jet(a.value + sign * b, a.first, a.second)
    return Jet(a.value + sign * b.value, _merge(a.first, b.first, sign), _merge(a.second, b.second, sign))


def _multiplied(a: Any, b: Any) -> Jet:
    if not isinstance(a, Jet):
        a, b = b, a
    if not isinstance(b, Jet):
        return Jet(a.value * b, {i: part * b for i, part in a.first.items()}, _scaled(a.second, b))
    first = _merge(_scaled(a.first, b.value), _scaled(b.first, a.value))
    second = _merge(_scaled(a.second, b.value), _scaled(b.second, a.value))
    for i, left in a.first.items():
        for j, right in b.first.items():
            pair = (i, j) if i <= j else (j, i)
            part = left * right * (2.0 if i == j else 1.0)
            second[pair] = second[pair] + part if pair in second else part
    return Jet(a.value * b.value, first, second)


def _scaled(order: Order, by: Any) -> Order:
    return {key: part * by for key, part in order.items()}


def _lesser(a: Any, b: Any) -> Jet:
    """The smaller one, with the derivatives of that one."""
    a, b = (x if isinstance(x, Jet) else Jet(x, {}, {}) for x in (a, b))
    left = a.value <= b.value

    def pick(mine: Order, other: Order) -> Order:
        return {key: np.where(left, mine.get(key, 0.0), other.get(key, 0.0)) for key in {**mine, **other}}

    return Jet(np.where(left, a.value, b.value), pick(a.first, b.first), pick(a.second, b.second))


def _exp(x: Any) -> tuple[Any, Any, Any]:
    value = np.exp(x)
    return value, value, value


def _expm1(x: Any) -> tuple[Any, Any, Any]:
    slope = np.exp(x)
    return np.expm1(x), slope, slope


def _log(x: Any) -> tuple[Any, Any, Any]:
    slope = 1.0 / x
    return np.log(x), slope, -slope * slope


def _reciprocal(x: Any) -> tuple[Any, Any, Any]:
    value = 1.0 / x
    return value, -value * value, 2.0 * value**3


def _divided(a: Any, b: Any) -> Jet:
    return _multiplied(a, _compose(b, *_reciprocal(b.value)) if isinstance(b, Jet) else 1.0 / b)


_UNARY: Mapping[np.ufunc, Callable[[Any], tuple[Any, Any, Any]]] = {
    np.exp: _exp,
    np.expm1: _expm1,
    np.log: _log,
    np.negative: lambda x: (-x, -1.0, None),
}
_BINARY: Mapping[np.ufunc, Callable[[Any, Any], Jet]] = {
    np.add: _added,
    np.subtract: lambda a, b: _added(a, b, -1.0),
    np.multiply: _multiplied,
    np.divide: _divided,
    np.minimum: _lesser,
}


def plain(x: Any) -> npt.NDArray[np.float64]:
    """The real value of a number, an array, a complex array or a jet: for choices, which have no derivative."""
    return np.asarray(np.real(x.value if isinstance(x, Jet) else x), dtype=np.float64)


def log_sum_exp(a: Any, b: Any) -> Any:
    """ln(e^a + e^b) without overflow."""
    top = np.maximum(plain(a), plain(b))
    return top + np.log(np.exp(a - top) + np.exp(b - top))


def logistic(x: Any) -> tuple[Any, Any, Any]:
    """Of real or complex numbers: ln(1 + e^x), ln(1 + e^-x) and 1/(1 + e^-x), each to sixteen digits of 1."""
    rising = plain(x) > 0
    small = np.exp(np.where(rising, -x, x))
    log = np.log(1.0 + small)
    above = np.where(rising, x, 0.0)
    return log + above, log + (above - x), np.where(rising, 1.0, small) / (1.0 + small)

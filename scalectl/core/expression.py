"""One small safe grammar for rules, constraints and filters; never eval().

    condition   or, and, not, comparisons (== != < <= > >=, chained as in 1 < x <= 3)
    arithmetic  + - * / // %, powers ^ or ** (right to left, before the sign: -x^2 is -(x^2))
    values      numbers, "text" or 'text', true, false, names with dots, `names with spaces`
    functions   min max sqrt log log2 log10 exp abs round floor ceil

The same expression evaluates on numbers and on numpy columns; on columns a condition is a mask. Arithmetic is done in
floats, so that no power can run away: a scalar overflow, a division by zero or the logarithm of a negative number is
an error, in a column it is inf or nan, and a comparison with nan is false, != excepted. `round` goes to even.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn

import numpy as np

from scalectl.core.errors import ExpressionError
from scalectl.core.names import did_you_mean, escaped, shown

MAX_LENGTH = 2000  # characters; ours: the longest filter anyone reads, and a bound on parsing time
SNIPPET = 60  # characters of the expression shown around a fault
MAX_DEPTH = 60  # nested brackets, signs and powers; ours: far below Python's own limit of recursion


@dataclass(frozen=True)
class Value:
    """A number, a text or a truth value written in the expression."""

    value: float | str | bool
    at: int


@dataclass(frozen=True)
class Name:
    """A column or key."""

    name: str
    at: int


@dataclass(frozen=True)
class Unary:
    """`-x` or `not x`."""

    op: str
    operand: Node
    at: int


@dataclass(frozen=True)
class Chain:
    """Operators of one precedence from left to right: first, then (operator, operand, position) each."""

    first: Node
    rest: tuple[tuple[str, Node, int], ...]
    at: int


@dataclass(frozen=True)
class Compare:
    """Chained comparisons: every neighbouring pair has to hold."""

    first: Node
    rest: tuple[tuple[str, Node, int], ...]
    at: int


@dataclass(frozen=True)
class Logic:
    """`and` or `or` over two or more conditions."""

    op: str
    operands: tuple[Node, ...]
    at: int


@dataclass(frozen=True)
class Call:
    """A function of the grammar."""

    function: str
    arguments: tuple[Node, ...]
    at: int


Node = Value | Name | Unary | Chain | Compare | Logic | Call


@dataclass(frozen=True)
class Expression:
    """A parsed expression. names: every name it reads, in order of appearance, each once."""

    text: str
    root: Node
    names: tuple[str, ...]

    @property
    def is_condition(self) -> bool:
        """Whether the result can be a truth value; a bare name may hold one."""
        root = self.root
        return (
            isinstance(root, Compare | Logic | Name)
            or (isinstance(root, Unary) and root.op == "not")
            or (isinstance(root, Value) and isinstance(root.value, bool))
        )

    def at(self, name: str) -> int:
        """Where a name first stands, as a 0-based offset into the text."""
        return next(node.at for node in _walk(self.root) if isinstance(node, Name) and node.name == name)

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Compute the result for these values, by the names as written.

        Args: values: numbers, texts, truth values, or numpy columns of shape (n,).
        Returns: a float, str or bool; an array of shape (n,) if any value that is read is a column.
        Raises: ExpressionError, with the column of the fault, for a missing name, text in arithmetic or a domain error.
        """
        with np.errstate(all="ignore"):
            return _evaluate(self.root, values, self.text)

    def resolved(self, known: Iterable[str]) -> dict[str, str]:
        """Map every name it reads to its full name: {"d_model": "model.d_model"}; see `full_name`."""
        names = tuple(known)
        found = {}
        for name in self.names:
            try:
                found[name] = full_name(name, names)
            except ExpressionError as error:
                _fail(self.text, self.at(name), error.what, error.remedy)
        return found


def full_name(name: str, known: Iterable[str]) -> str:
    """Find the known name that `name` stands for: itself, or the only one that ends in `.name`.

    Raises: ExpressionError if there is none (did you mean ...) or more than one (which).
    """
    names = tuple(known)
    if name in names:
        return name
    candidates = sorted(n for n in names if n.endswith(f".{name}"))
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise ExpressionError(f"{escaped(name)} could be {' or '.join(candidates)}", remedy="write it in full")
    raise ExpressionError(f"{escaped(name)} is not known here", remedy=did_you_mean(name, names))


def parse(text: str) -> Expression:
    """Read an expression.

    Raises: ExpressionError with the 1-based column of the fault.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"an expression of {len(text)} characters; at most {MAX_LENGTH} are read")
    parser = _Parser(text, _tokens(text))
    root = parser.condition()
    parser.end()
    names = dict.fromkeys(node.name for node in _walk(root) if isinstance(node, Name))
    return Expression(text, root, tuple(names))


# --- reading ---------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<number>(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][+-]?\d+)?)
    |(?P<name>[^\W\d]\w*(?:\.\w+)*)
    |(?P<quoted>`[^`]*`)
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<op>\*\*|//|==|!=|<=|>=|[-+*/%^<>(),])
    |(?P<space>\s+)""",
    re.VERBOSE,
)
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_HINTS = {
    "=": "compare with ==",
    "&": "write `and`",
    "|": "write `or`",
    "!": "write `not`, or != to compare",
    "[": "only round brackets group",
    ";": "one expression only",
}


@dataclass(frozen=True)
class _Token:
    kind: str  # number, name, text, op, end
    text: str
    at: int


def _fail(text: str, at: int, what: str, remedy: str | None = None) -> NoReturn:
    window = max(0, at - 30)
    line = escaped(text[window : window + SNIPPET], SNIPPET)
    where = f"column {at + 1}: {line}\n{' ' * (len(f'column {at + 1}: ') + at - window)}^"
    raise ExpressionError(f"{what} (column {at + 1})", where=where, remedy=remedy, column=at + 1)


def _tokens(text: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            c = text[at]
            what = f"an open {c}" if c in "\"'`" else f"{escaped(c)} means nothing here"
            _fail(text, at, what, "close it" if c in "\"'`" else _HINTS.get(c))
        kind, held = str(match.lastgroup), match.group()
        if kind == "number" and match.end() < len(text) and (text[match.end()].isalnum() or text[match.end()] == "."):
            _fail(text, at, f"{escaped(held + text[match.end()])}... is not a number")
        if kind == "quoted":
            found.append(_Token("name", held[1:-1], at))
        elif kind == "text":
            found.append(_Token("text", held[1:-1], at))
        elif kind == "name" and held in ("and", "or", "not"):
            found.append(_Token("op", held, at))
        elif kind == "name" and held in ("true", "false"):
            found.append(_Token("truth", held, at))
        elif kind != "space":
            found.append(_Token(kind, held, at))
        at = match.end()
    found.append(_Token("end", "", len(text)))
    return found


class _Parser:
    """Recursive descent, one method per precedence; every bracket, sign, power and call costs one level of depth."""

    def __init__(self, text: str, tokens: list[_Token]) -> None:
        self.text = text
        self.tokens = tokens
        self.index = 0
        self.depth = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.index]

    def take(self, *ops: str) -> _Token | None:
        token = self.token
        if token.kind == "op" and token.text in ops:
            self.index += 1
            return token
        return None

    def deeper(self, parse_one: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            _fail(self.text, self.token.at, f"nested deeper than {MAX_DEPTH} levels")
        node = parse_one()
        self.depth -= 1
        return node

    def end(self) -> None:
        if self.token.kind != "end":
            _fail(self.text, self.token.at, f"{escaped(self.token.text)} does not fit here", "an operator is missing")

    def condition(self) -> Node:
        return self.logic("or", lambda: self.logic("and", self.negation))

    def logic(self, op: str, operand: Callable[[], Node]) -> Node:
        first = operand()
        operands = [first]
        while self.take(op):
            operands.append(operand())
        return Logic(op, tuple(operands), first.at) if len(operands) > 1 else first

    def negation(self) -> Node:
        token = self.take("not")
        if token is None:
            return self.comparison()
        return Unary("not", self.deeper(self.negation), token.at)

    def comparison(self) -> Node:
        first = self.addition()
        rest = self.rest(tuple(_COMPARISONS), self.addition)
        return Compare(first, rest, first.at) if rest else first

    def addition(self) -> Node:
        first = self.product()
        rest = self.rest(("+", "-"), self.product)
        return Chain(first, rest, first.at) if rest else first

    def product(self) -> Node:
        first = self.signed()
        rest = self.rest(("*", "/", "//", "%"), self.signed)
        return Chain(first, rest, first.at) if rest else first

    def rest(self, ops: tuple[str, ...], operand: Callable[[], Node]) -> tuple[tuple[str, Node, int], ...]:
        found = []
        while (token := self.take(*ops)) is not None:
            found.append((token.text, operand(), token.at))
        return tuple(found)

    def signed(self) -> Node:
        token = self.take("-", "+")
        if token is None:
            return self.power()
        operand = self.deeper(self.signed)
        return Unary("-", operand, token.at) if token.text == "-" else operand

    def power(self) -> Node:
        base = self.atom()
        token = self.take("^", "**")
        if token is None:
            return base
        return Chain(base, (("^", self.deeper(self.signed), token.at),), base.at)

    def atom(self) -> Node:
        token = self.token
        self.index += 1
        if token.kind == "number":
            try:
                number = float(token.text)
            except ValueError:
                _fail(self.text, token.at, f"{escaped(token.text)} is not a number")
            if not math.isfinite(number):
                _fail(self.text, token.at, f"{escaped(token.text)} is too large")
            return Value(number, token.at)
        if token.kind == "text":
            return Value(token.text, token.at)
        if token.kind == "truth":
            return Value(token.text == "true", token.at)
        if token.kind == "op" and token.text == "(":
            inside = self.deeper(self.condition)
            self.close(token)
            return inside
        if token.kind == "name":
            return self.call(token) if self.take("(") else Name(token.text, token.at)
        self.index -= 1
        found = "the expression ends too early" if token.kind == "end" else f"{escaped(token.text)} does not fit here"
        _fail(self.text, token.at, found, "a value, a name or a bracket is missing")

    def call(self, token: _Token) -> Node:
        if token.text not in FUNCTIONS:
            _fail(self.text, token.at, f"{escaped(token.text)} is not a function", did_you_mean(token.text, FUNCTIONS))
        arguments = [self.deeper(self.condition)]
        while self.take(","):
            arguments.append(self.deeper(self.condition))
        self.close(token)
        several = token.text in ("min", "max")
        if several != (len(arguments) > 1):
            _fail(self.text, token.at, f"{token.text} takes {'two or more values' if several else 'one value'}")
        return Call(token.text, tuple(arguments), token.at)

    def close(self, opened: _Token) -> None:
        if not self.take(")"):
            _fail(self.text, self.token.at, f"the bracket of column {opened.at + 1} is not closed")


def _walk(node: Node) -> Iterable[Node]:
    yield node
    if isinstance(node, Unary):
        yield from _walk(node.operand)
    elif isinstance(node, Chain | Compare):
        yield from _walk(node.first)
        for _, operand, _ in node.rest:
            yield from _walk(operand)
    elif isinstance(node, Logic):
        for operand in node.operands:
            yield from _walk(operand)
    elif isinstance(node, Call):
        for argument in node.arguments:
            yield from _walk(argument)


# --- evaluating ------------------------------------------------------------------------------------------------------


def _remainder(a: float, b: float) -> float:
    return a % b  # the sign of b, in Python as in numpy


_SCALAR: dict[str, Callable[..., float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": _remainder,
    "^": math.pow,  # `**` would answer a negative base with a complex number
    "min": min,
    "max": max,
    "sqrt": math.sqrt,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "exp": math.exp,
    "abs": abs,
    "round": round,
    "floor": math.floor,
    "ceil": math.ceil,
}
_COLUMN: dict[str, Callable[..., Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.true_divide,
    "//": np.floor_divide,
    "%": np.remainder,
    "^": np.power,
    "min": lambda *x: reduce(np.minimum, x),
    "max": lambda *x: reduce(np.maximum, x),
    "sqrt": np.sqrt,
    "log": np.log,
    "log2": np.log2,
    "log10": np.log10,
    "exp": np.exp,
    "abs": np.abs,
    "round": np.round,
    "floor": np.floor,
    "ceil": np.ceil,
}
FUNCTIONS = ("min", "max", "sqrt", "log", "log2", "log10", "exp", "abs", "round", "floor", "ceil")


def _evaluate(node: Node, values: Mapping[str, Any], text: str) -> Any:
    match node:
        case Value():
            return node.value
        case Name():
            if node.name not in values:
                remedy = did_you_mean(node.name, values)
                _fail(text, node.at, f"{escaped(node.name)} is not known here", remedy)
            held = values[node.name]
            return _column(held) if isinstance(held, np.ndarray) else held
        case Unary("-"):
            return _apply("*", (-1.0, _number(node.operand, values, text)), node.at, text)
        case Unary():
            return _invert(_truth(node.operand, values, text))
        case Chain():
            result = _number(node.first, values, text)
            for op, operand, at in node.rest:
                result = _apply(op, (result, _number(operand, values, text)), at, text)
            return result
        case Call():
            arguments = tuple(_number(argument, values, text) for argument in node.arguments)
            return _apply(node.function, arguments, node.at, text)
        case Compare():
            left = _evaluate(node.first, values, text)
            result = True
            for op, operand, at in node.rest:
                right = _evaluate(operand, values, text)
                result = _both(result, _compare(op, left, right, at, text))
                left = right
            return result
        case Logic():
            parts = [_truth(operand, values, text) for operand in node.operands]
            return reduce(_both if node.op == "and" else _either, parts)


def _column(held: Any) -> Any:
    """Turn a column into floats, truth values or objects; a missing number is nan."""
    if held.dtype.kind in "iuf":
        return held.astype(np.float64)
    if held.dtype.kind != "O":
        return held
    try:
        return np.array([math.nan if x is None else x for x in held], dtype=np.float64) if _numeric(held) else held
    except (TypeError, ValueError):
        return held


def _numeric(held: Any) -> bool:
    return all(x is None or (isinstance(x, int | float | np.number) and not isinstance(x, bool)) for x in held)


def _number(node: Node, values: Mapping[str, Any], text: str) -> Any:
    held = _evaluate(node, values, text)
    if isinstance(held, np.ndarray):
        if held.dtype.kind == "f":
            return held
        _fail(text, node.at, "this column does not hold numbers")
    if isinstance(held, bool | np.bool_) or not isinstance(held, int | float | np.number):
        _fail(text, node.at, f"{shown(held)} is not a number")
    try:
        return float(held)
    except OverflowError:
        _fail(text, node.at, "the number is too large")


def _truth(node: Node, values: Mapping[str, Any], text: str) -> Any:
    held = _evaluate(node, values, text)
    if isinstance(held, np.ndarray):
        if held.dtype.kind == "b":
            return held
        _fail(text, node.at, "this column holds no truth values", "compare it with something")
    if isinstance(held, bool | np.bool_):
        return bool(held)
    _fail(text, node.at, f"{shown(held)} is neither true nor false", "compare it with something")


def _apply(op: str, arguments: tuple[Any, ...], at: int, text: str) -> Any:
    if any(isinstance(argument, np.ndarray) for argument in arguments):
        return _COLUMN[op](*arguments)
    try:
        result = float(_SCALAR[op](*arguments))
    except ZeroDivisionError:
        _fail(text, at, "division by zero")
    except ValueError:
        _fail(text, at, f"{op} of {', '.join(f'{a:g}' for a in arguments)} is not a real number")
    except OverflowError:
        _fail(text, at, f"{op} of {', '.join(f'{a:g}' for a in arguments)} is too large")
    if not math.isfinite(result):
        _fail(text, at, f"{op} of {', '.join(f'{a:g}' for a in arguments)} is not a finite number")
    return result


def _compare(op: str, left: Any, right: Any, at: int, text: str) -> Any:
    words = [_is_text(side) for side in (left, right)]
    if words[0] != words[1] or any(isinstance(side, bool) for side in (left, right)):
        if op not in ("==", "!="):
            _fail(text, at, f"{op} needs two numbers or two texts")
        if words[0] != words[1] and not any(isinstance(s, np.ndarray) and s.dtype.kind == "O" for s in (left, right)):
            kinds = ["text" if word else "a number" for word in words]
            _fail(text, at, f"{kinds[0]} is compared with {kinds[1]}", "quote text, leave numbers bare")
    try:
        result = _COMPARISONS[op](left, right)
    except TypeError:
        _fail(text, at, f"{op} cannot order these values; some are missing")
    return result.astype(bool) if isinstance(result, np.ndarray) else bool(result)


def _is_text(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "OUST"
    return isinstance(value, str)


def _both(a: Any, b: Any) -> Any:
    return a & b


def _either(a: Any, b: Any) -> Any:
    return a | b


def _invert(a: Any) -> Any:
    return ~a if isinstance(a, np.ndarray) else not a

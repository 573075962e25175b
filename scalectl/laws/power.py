"""One axis: a power law, and a power law above a floor.

Source: Kaplan et al. 2020 (arXiv 2001.08361), equations 1.1 to 1.3; the floor as in Henighan et al. 2020
(arXiv 2010.14701), equation 1.1.

Of nominal 95 % intervals over sizes | runs | residuals so many hold the truth (200 data sets, lowest parameter of each,
bench/coverage.py): A/X^α, 5 sizes x 3 seeds, noise alone 1.00 | .94 | .89, sizes 1 % off the law .98 | .78 | .66; with
E, 8 x 3, noise alone 1.00 | .99 | .92, sizes .2 % off 1.00 | .96 | .85.
"""

from __future__ import annotations

from scalectl.laws.law import Law
from scalectl.laws.powers import Term, sum_of_powers

EXAMPLE = {"A": 11.5, "alpha": 0.076}  # Kaplan et al. 2020, table 5: α_N, and A = N_c^α_N with N_c = 8.8e13


def power(axis: str) -> Law:
    """L = A / X^α along one axis, X one of N, D, C."""
    term = Term("A", axis, "alpha")
    return sum_of_powers("power", f"L = A/{axis}^α", (term,), constant=None, needs=2, example=EXAMPLE, along=power)


def power_constant(axis: str) -> Law:
    """L = E + A / X^α along one axis, X one of N, D, C."""
    term = Term("A", axis, "alpha")
    formula = f"L = E + A/{axis}^α"
    example = {"E": 1.0} | EXAMPLE
    return sum_of_powers(
        "power+constant", formula, (term,), constant="E", needs=3, example=example, along=power_constant
    )


POWER = power("N")
POWER_CONSTANT = power_constant("N")

"""N and D together: L = E + A/N^α + B/D^β.

Source: Hoffmann et al. 2022 (arXiv 2203.15556), equation 2.
"""

from __future__ import annotations

from scalectl.laws.powers import Term, sum_of_powers

CHINCHILLA = sum_of_powers(
    "chinchilla",
    "L = E + A/N^α + B/D^β",
    (Term("A", "N", "alpha"), Term("B", "D", "beta")),
    constant="E",
    needs=3,
)

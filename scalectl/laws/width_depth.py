"""Shape instead of size: L = E + A/width^α + B/depth^β + G/D^γ.

Source: McLeish et al. 2025 (Gemstones, arXiv 2502.06857), a law of model width, depth and tokens.

Of nominal 95 % intervals over sizes | runs | residuals so many hold the truth (200 data sets, lowest parameter of each,
6 widths x 4 depths x 3 amounts of tokens, noise alone, bench/coverage.py): 1.00 | .96 | .88.
"""

from __future__ import annotations

from scalectl.laws.powers import Term, sum_of_powers

WIDTH_DEPTH = sum_of_powers(
    "width-depth",
    "L = E + A/width^α + B/depth^β + G/D^γ",
    (
        Term("A", "width", "alpha", helped="add widths at one depth"),
        Term("B", "depth", "beta", helped="add depths at one width"),
        Term("G", "D", "gamma", helped="add token budgets per shape"),
    ),
    constant="E",
    needs=3,
    # Ours: terms of equal weight at width 1,000, depth 12 and 10 B tokens.
    example={"E": 1.6, "A": 30.0, "alpha": 0.6, "B": 1.5, "beta": 0.7, "G": 1200.0, "gamma": 0.33},
)

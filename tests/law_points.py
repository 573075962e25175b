"""Points that any law of the table can be looked at on: sizes by budgets, with or without noise."""

from dataclasses import replace

import numpy as np

from scalectl.laws import where


def places(n=7):
    """n sizes by n budgets."""
    N, D = (values.ravel() for values in np.meshgrid(np.geomspace(4e7, 1e10, n), np.geomspace(1e9, 4e11, n)))
    return where(N=N, D=D, C=6 * N * D)


def grid_points(law, theta, noise=0.0, rng=0, n=7):
    """What the law says there, with noise on the logarithm."""
    there = places(n)
    exact = np.asarray(law.predict(theta, there))
    return replace(there, L=exact * np.exp(noise * np.random.default_rng(rng).standard_normal(len(there))))

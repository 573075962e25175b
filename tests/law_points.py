"""Points that any law of the table can be looked at on: sizes by budgets, with or without noise."""

from dataclasses import replace

import numpy as np

from scalectl.laws import where


def places(n=7):
    """n sizes by n budgets, of many shapes, from once to sixty times through the data, and losses that go with them."""
    N, D = (values.ravel() for values in np.meshgrid(np.geomspace(4e7, 1e10, n), np.geomspace(1e9, 4e11, n)))
    k = np.arange(n * n)
    epochs = np.array([0.5, 1.0, 3.0, 8.0, 20.0, 60.0])[k % 6]
    depth = np.array([4.0, 8.0, 12.0, 20.0, 32.0])[k % 5]
    width = 256 * (N / 4e7) ** 0.5 * np.array([0.7, 1.0, 1.4])[k % 3]
    return where(N=N, D=D, C=6 * N * D, U=D / epochs, width=width, depth=depth, loss=1.7 + 4e2 / N**0.3 + 4e2 / D**0.3)


def grid_points(law, theta, noise=0.0, rng=0, n=7):
    """What the law says there, with noise: relative for a loss, absolute for a score."""
    there = places(n)
    exact = np.asarray(law.predict(theta, there))
    off = noise * np.random.default_rng(rng).standard_normal(len(there))
    return replace(there, L=exact + off if law.measures == "score" else exact * np.exp(off), measures=law.measures)

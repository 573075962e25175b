"""Noise-free losses of three surfaces give their five parameters back, whatever the design."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scalectl.core.rows import Points
from scalectl.fit.estimate import Status, fit
from scalectl.fit.objective import LAD, LOG_MSE, MSE, Huber
from scalectl.laws import LAWS, where

CHINCHILLA = LAWS["chinchilla"]
SURFACES = {
    "symmetric": {"E": 1.69, "A": 400.0, "alpha": 0.31, "B": 400.0, "beta": 0.31},
    "chinchilla": {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28},
    "alpha three times beta": {"E": 1.69, "A": 400.0, "alpha": 0.465, "B": 400.0, "beta": 0.155},
}


def grid(rng):
    return (x.ravel() for x in np.meshgrid(np.geomspace(5e7, 1e10, 8), np.geomspace(1e9, 3e11, 8)))


def isoflops(rng):
    C = np.repeat(np.geomspace(6e18, 3e21, 7), 9)
    N = np.sqrt(C / 120) * np.tile(np.geomspace(0.2, 5, 9), 7)
    return N, C / (6 * N)


def scattered(rng):
    return np.exp(rng.uniform(np.log(5e7), np.log(1e10), 40)), np.exp(rng.uniform(np.log(1e9), np.log(3e11), 40))


@pytest.mark.parametrize("objective", [Huber(), LAD, MSE, LOG_MSE], ids=str)
@pytest.mark.parametrize("design", [grid, isoflops, scattered])
@pytest.mark.parametrize("truth", SURFACES.values(), ids=SURFACES)
def test_all_five_parameters_come_back_to_nine_digits(truth, design, objective):
    for seed in range(5 if design is scattered else 1):
        N, D = design(np.random.default_rng(seed))
        fitted = fit(CHINCHILLA, Points(L=CHINCHILLA.predict(truth, where(N=N, D=D)), N=N, D=D), objective)
        assert fitted.status is Status.CONVERGED
        assert_allclose([fitted.theta[name] for name in truth], list(truth.values()), rtol=1e-9)

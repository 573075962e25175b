"""How others fit the Chinchilla law: one procedure on one file of points, timed, as one line of JSON.

    PYTHON bench/fit_peers.py grid|bootstrap|chinchilla POINTS.npz [--quick]

POINTS.npz holds N [parameters], D [tokens] and L [nats/token]. Needs numpy and scipy; `chinchilla` needs the package of
that name as well, so that this file may run under an interpreter of its own. Seconds are of the processor, imports
left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np

DELTA = 1e-3
# Hoffmann et al. 2022, arXiv 2203.15556, appendix D.3: 5 x 5 x 5 x 6 x 6 = 4,500 starts
GRID = {
    "a": np.arange(0.0, 30.0, 5.0),
    "b": np.arange(0.0, 30.0, 5.0),
    "e": np.arange(-1.0, 1.5, 0.5),
    "alpha": np.arange(0.0, 2.5, 0.5),
    "beta": np.arange(0.0, 2.5, 0.5),
}
# their point, where each resampled fit of Besiroglu et al. 2024, arXiv 2404.10102, begins
HOFFMANN = np.array([np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28])
RESAMPLES = 4000
SEED = 42


def huber(parameters, log_N, log_D, log_L):
    """Sum of Huber(1e-3) of the log residual; parameters: ln A, ln B, ln E, alpha, beta."""
    a, b, e, alpha, beta = parameters
    terms = np.stack([a - alpha * log_N, b - beta * log_D, np.broadcast_to(e, log_N.shape)])
    top = terms.max(0)
    residual = np.abs(top + np.log(np.exp(terms - top).sum(0)) - log_L)
    return np.where(residual <= DELTA, residual**2 / 2, DELTA * (residual - DELTA / 2)).sum()


def natural(parameters):
    a, b, e, alpha, beta = map(float, parameters)
    return {"A": np.exp(a), "B": np.exp(b), "E": np.exp(e), "alpha": alpha, "beta": beta}


def grid(N, D, L, quick):
    """4,500 starts of L-BFGS-B with scipy's finite differences; the best one counts."""
    from scipy.optimize import minimize

    data = np.log(N), np.log(D), np.log(L)
    starts = list(itertools.product(*GRID.values()))
    starts = starts[:: len(starts) // 20] if quick else starts
    begin = time.process_time()
    found = [minimize(huber, start, args=data, method="L-BFGS-B") for start in starts]
    seconds = time.process_time() - begin
    best = min((one for one in found if np.isfinite(one.fun)), key=lambda one: one.fun)
    return {"seconds": seconds, "fits": len(starts), "params": natural(best.x)}


def bootstrap(N, D, L, quick):
    """4,000 resamples, each fitted once by BFGS from Hoffmann's point with scipy's finite differences."""
    from scipy.optimize import minimize

    data = np.log(N), np.log(D), np.log(L)
    drawn = np.random.RandomState(SEED)
    picks = [drawn.choice(len(L), len(L)) for _ in range(20 if quick else RESAMPLES)]
    begin = time.process_time()
    found = [minimize(huber, HOFFMANN, args=tuple(part[pick] for part in data), method="BFGS") for pick in picks]
    seconds = time.process_time() - begin
    rows = [{**natural(one.x), "objective": float(one.fun)} for one in found]
    return {"seconds": seconds, "fits": len(picks), "rows": rows}


def chinchilla(N, D, L, quick):
    """The package `chinchilla`: the grid of its README, its log_huber with 1e-3, one process."""
    from chinchilla import Chinchilla
    from chinchilla._metrics import log_huber

    steps = 2 if quick else 5
    starts = {
        "E": np.linspace(1, 2, steps),
        "a": np.linspace(1, 10, steps),
        "b": np.linspace(1, 10, steps),
        "alpha": np.linspace(0.1, 0.7, steps),
        "beta": np.linspace(0.1, 0.7, steps),
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            f"{6 * n * d!r},{n!r},{d!r},{loss!r}" for n, d, loss in zip(*(x.tolist() for x in (N, D, L)), strict=True)
        ]
        Path(folder, "df.csv").write_text("\n".join(["C,N,D,loss", *rows]) + "\n")
        peer = Chinchilla(folder, param_grid=starts, loss_fn=partial(log_huber, delta=DELTA), log_level=50)
        begin = time.process_time()
        peer.fit(parallel=False)
        seconds = time.process_time() - begin
    return {"seconds": seconds, "fits": steps**5, "params": {name: float(x) for name, x in peer.params.items()}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("procedure", choices=("grid", "bootstrap", "chinchilla"))
    parser.add_argument("points")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    points = np.load(given.points)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    found = globals()[given.procedure](points["N"], points["D"], points["L"], given.quick)
    import scipy

    versions = {"python": sys.version.split()[0], "numpy": np.__version__, "scipy": scipy.__version__}
    print(json.dumps({**found, "versions": versions}))


if __name__ == "__main__":
    main()

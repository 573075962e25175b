"""Residuals by place, and the law without each size and point."""

import numpy as np
import pytest

from scalectl.core.rows import Points
from scalectl.fit import diagnose as module
from scalectl.fit.diagnose import FAR, diagnose
from scalectl.fit.estimate import fit, without
from scalectl.laws import LAWS, law_on

POWER = law_on("power", ("N",))


def ladder(factor=1.0, at=3):
    """Five sizes of two seeds on a power law; both runs of one size off by a factor."""
    N = np.repeat(np.geomspace(1e5, 1e7, 5), 2)
    noise = np.tile([1.001, 0.999], 5)
    L = 4 * (N / 1e5) ** -0.1 * noise
    L[2 * at : 2 * at + 2] *= factor
    return Points(L=L, N=N, size=N, ids=tuple(f"run{i}" for i in range(10)))


def test_residuals_are_those_of_the_places():
    points = ladder(1.05)
    fitted = fit(POWER, points)
    found = diagnose(fitted).places
    assert [place.axis for place in found] == ["N"] * 5
    residual = fitted.predict(N=points.N) / points.L - 1
    for k, place in enumerate(found):
        here = residual[2 * k : 2 * k + 2]
        assert (place.n, place.mean, place.least, place.most) == pytest.approx((2, here.mean(), here.min(), here.max()))
    assert found[3].place == "3.16 M"
    assert found[3].mean == pytest.approx(1 / 1.05 - 1, abs=0.002)


def test_a_size_left_out_is_the_fit_without_it():
    fitted = fit(POWER, ladder(1.05, at=4))
    held = diagnose(fitted)
    assert {one.what: one.n for one in held.sizes} == dict.fromkeys(
        ("N 100 k", "N 316 k", "N 1 M", "N 3.16 M", "N 10 M"), 2
    )
    largest = next(one for one in held.sizes if one.what == "N 10 M")
    rest = without(fitted, np.arange(10) < 8)
    assert largest.params == pytest.approx(rest.theta, rel=1e-6)
    change = rest.predict(N=FAR * 1e7) / fitted.predict(N=FAR * 1e7) - 1
    assert largest.far == pytest.approx(float(change[0]), rel=1e-4)


def test_a_point_left_out_is_the_fit_without_it():
    fitted = fit(POWER, ladder(1.05))
    held = diagnose(fitted)
    assert {one.what for one in held.points} == {f"run{i}" for i in range(10)}
    for one in held.points[:3]:
        rest = without(fitted, np.array([name != one.what for name in fitted.points.ids]))
        assert one.params == pytest.approx(rest.theta, rel=1e-5)
    assert [abs(one.far) for one in held.points] == sorted((abs(one.far) for one in held.points), reverse=True)


def test_sizes_that_the_law_cannot_do_without_are_named():
    points = ladder().take(np.array([0, 1, 8, 9]))
    held = diagnose(fit(POWER, points))
    assert held.sizes == ()
    assert held.alone == ("N 100 k", "N 10 M")


def test_of_many_points_those_furthest_from_the_law_are_left_out(monkeypatch):
    monkeypatch.setattr(module, "MOST_POINTS", 3)
    held = diagnose(fit(POWER, ladder(1.05)))
    assert held.skipped == 7
    assert {"run6", "run7"} <= {one.what for one in held.points}


def test_a_joint_law_has_residuals_along_both_axes():
    N, D = (values.ravel() for values in np.meshgrid(np.geomspace(1e5, 1e7, 4), np.geomspace(1e7, 1e9, 4)))
    points = Points(L=1.7 + 40 / N**0.3 + 60 / D**0.3, N=N, D=D, size=N)
    held = diagnose(fit(LAWS["chinchilla"], points))
    assert [place.axis for place in held.places] == ["N"] * 4 + ["D"] * 4
    assert max(abs(place.mean) for place in held.places) < 1e-8
    assert max(abs(one.far) for one in held.sizes) < 1e-6

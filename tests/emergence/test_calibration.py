"""The numbers to meet: false alarms at most 7 %, power at least 80 %, coverage of a 90 % interval at least 80 %."""

import pytest

from scalectl.emergence.calibrate import (
    DISPERSIONS,
    FLOORS,
    KINDS,
    LEAST_COVERED,
    LEAST_POWER,
    MOST_FALSE,
    calibrate,
    rates,
)

NAMES = [kind.name for kind in KINDS]


@pytest.mark.slow
@pytest.mark.parametrize("dispersion", DISPERSIONS)
@pytest.mark.parametrize("floor_from", FLOORS)
@pytest.mark.parametrize("name", NAMES)
def test_error_rates_meet_their_goals(name, dispersion, floor_from):
    found = rates(NAMES.index(name), dispersion, floor_from, 200)
    if found.wrong is not None:
        assert found.wrong <= MOST_FALSE == 0.07, found
    else:
        assert found.power >= LEAST_POWER == 0.8, found
        assert found.covered >= LEAST_COVERED == 0.8, found
    assert found.met


@pytest.mark.parametrize("name", ["flat", "linear", "logistic over .4 decades"])
def test_twenty_curves_are_judged_as_they_should_be(name):
    found = rates(NAMES.index(name), 1.0, "chance", 20)
    assert found.met, found
    assert (found.wrong is None) == (name == "logistic over .4 decades")


@pytest.mark.slow
def test_processes_change_no_number():
    assert list(calibrate(2, workers=2)) == list(calibrate(2))

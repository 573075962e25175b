"""What a screen of scores picks out of many places."""

import pytest

from scalectl.report.score_screen import _changing
from scalectl.report.views import Place


def places(*able):
    return [Place(float(k), share, 0.0, 1.0, 100.0, 5, share, (0.0, 1.0)) for k, share in enumerate(able)]


@pytest.mark.parametrize(
    ("able", "shown"),
    [
        ((0, 0, 0, 1, 1), [2, 3]),
        ((0, 0, 0.2, 0.8, 1, 1), [1, 2, 3, 4]),
        ((0.4, 1, 1), [0, 1]),
        ((0, 0, 0.6), [1, 2]),
        ((0, 0, 0), [2]),
        ((0, 0.2, 0.4, 0.6, 0.8, 1), [0, 1, 2, 3]),
    ],
)
def test_shares_of_able_seeds_are_shown_where_they_change(able, shown):
    assert [place.at for place in _changing(places(*able))] == shown

"""What the shipped sweeps of emergence show: abilities that appear, and a jump that the metric makes."""

import json
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import spearmanr

from scalectl.commands.shipped import reference_folder
from scalectl.store.layout import open_store
from scalectl.store.points import load_points

PARITY = "emergence-parity"


@pytest.fixture(scope="module")
def parity(tmp_path_factory, scalectl):
    folder = tmp_path_factory.mktemp("parity")
    held = json.loads(scalectl("fit", PARITY, "--metric", "exact_match", "--json", cwd=folder).stdout)
    return {task["task"]: task for task in held["tasks"]}


def test_parities_emerge_in_the_order_of_their_frequencies(parity):
    genuine = {name: held for name, held in parity.items() if held["bracket"] and held["artefact"] == "genuine"}
    assert len(genuine) >= 8
    assert all(held["label"].startswith(("emergent", "edge")) for held in genuine.values())
    rank = [int(name.removeprefix("subtask")) for name in genuine]
    place = [held["midpoint"] or held["bracket"][1] for held in genuine.values()]
    assert spearmanr(rank, place).statistic >= 0.8


def test_the_mean_of_parities_is_smooth_and_a_power_law_on_every_seed(parity, tmp_path, scalectl):
    assert parity["held-out"]["label"] == "smooth"
    for seed in range(3):
        done = scalectl("fit", PARITY, "--where", f"train.seed == {seed}", "--json", "--bootstrap", 200, cwd=tmp_path)
        held = json.loads(done.stdout)
        law = next(fit for fit in held["fits"] if fit["law"] == held["chosen"] == "power")
        assert 0.32 <= law["params"]["alpha"] <= 0.48


def test_a_parity_is_learnt_within_one_step_of_the_width():
    # emergence.md: 1.02 to .10 bits in one step
    drops = []
    for k in range(1, 33):
        points = load_points(open_store(reference_folder()), PARITY, f"subtask{k:03d}/loss")
        for seed in range(3):
            mine = points.seed == seed
            order = np.argsort(points.axis("N")[mine])
            bits = (points.L[mine] / np.log(2))[order]
            drops += [(before, after) for before, after in pairwise(bits) if before > 0.9 and after < 0.1]
    assert len(drops) >= 5, drops

"""The race of whole processes runs from start to end, and all contenders train the same models."""

import json
import subprocess
import sys

import pytest
from support import REPOSITORY, environment


@pytest.mark.slow
def test_a_sweep_and_its_peers_train_the_same_runs(tmp_path):
    sizes = ["--runs", "2", "--steps", "60", "--rounds", "2", "--whole", "1"]
    command = [sys.executable, "bench/sixteen.py", *sizes, "--results", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY, env=environment(), check=True, capture_output=True, text=True)
    found = json.loads((tmp_path / "sixteen.json").read_text())
    assert [row["rounds"] for row in found["rows"]] == [2, 2, 1, 2]
    assert all(row["seconds"] > 0 for row in found["rows"])
    losses = found["raw"]["losses"]
    assert sorted(losses["one run"]) == pytest.approx(sorted(losses["sweep"]), abs=1e-4)
    # other initial weights and batches: means of two differ by .12 nats (one standard deviation) after 60 steps
    assert sum(losses["plain"]) / 2 == pytest.approx(sum(losses["sweep"]) / 2, abs=0.4)
    assert "at the same losses as in the sweep" in (tmp_path / "sixteen.md").read_text()

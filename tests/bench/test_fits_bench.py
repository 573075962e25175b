"""The fits and their peers run from start to end, on a share of the work."""

import json
import subprocess
import sys

import pytest
from support import PUBLISHED, REPOSITORY, environment

pytestmark = pytest.mark.skipif(
    not (PUBLISHED / "epoch_chinchilla").exists(), reason=f"the published tables are not at {PUBLISHED}"
)


@pytest.mark.slow
def test_fits_are_timed_beside_their_peers_and_reach_the_lower_objective(tmp_path):
    command = [sys.executable, "bench/fits.py", "--quick", "--results", str(tmp_path)]
    known = environment(SCALECTL_REFERENCES=str(PUBLISHED))
    subprocess.run(command, cwd=REPOSITORY, env=known, check=True, capture_output=True, text=True)
    found = json.loads((tmp_path / "fits.json").read_text())
    ours, grid = found["fit"]
    assert float(ours["objective"]) <= float(grid["objective"])
    assert float(ours["objective"]) == 0.001018274
    (draws,) = found["draws"]
    assert draws["ours lower or equal (1e-9)"] == "100.00%"
    assert {goal["verdict"] for goal in found["goals"]} <= {"met", "missed"}
    written = (tmp_path / "fits.md").read_text()
    assert "no figures to quote" in written
    assert "chinchilla 0.2.0 was not at hand" in written

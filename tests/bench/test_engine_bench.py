"""The benchmarks run from start to end; their figures are for a quiet machine, not for a test."""

import json
import subprocess
import sys

import pytest
from support import REPOSITORY, environment

pytestmark = pytest.mark.slow

PEERS = {f"{name}, fp32{how}" for name in ("plain torch.nn", "HF GPT-2") for how in ("", ", as it comes")}
PEERS |= {"plain torch.nn, bf16 autocast"}
OURS = {f"{name}, {precision}" for name in ("one row", "packed", "peak") for precision in ("fp32", "bf16")}
COMPONENTS = {"batch", "embedding", "norms", "attention", "MLP", "head", "loss", "clip and AdamW"}
BACKWARD = {f"{name}, backward" for name in ("embedding", "norms", "attention", "MLP", "head", "loss")}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "bench/engine.py", "--quick", "--profile", "--rounds", "1", "--results", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, env=environment(), check=True, capture_output=True, text=True)
    return folder


def test_the_engine_and_its_peers_are_measured_and_judged(kept):
    found = json.loads((kept / "engine.json").read_text())
    emulated = "bf16 is left out" in (kept / "engine.md").read_text()
    expected = {name for name in PEERS | OURS if not (emulated and "bf16" in name)}
    assert {row["contender"] for row in found["measured"]} >= expected
    assert all(row["per_second"] > 0 and len(row["rounds"]) == 1 for row in found["measured"])
    assert found["goals"]
    assert all((goal["reached"] >= goal["goal"]) == (goal["verdict"] == "met") for goal in found["goals"])
    written = (kept / "engine.md").read_text()
    assert all(row["contender"] in written for row in found["measured"])
    assert "give --nanogpt CHECKOUT" in written


def test_a_profile_gives_a_step_to_every_component(kept):
    found = json.loads((kept / "engine.json").read_text())
    emulated = "bf16 is left out" in (kept / "engine.md").read_text()
    for key in ("profile fp32 K1", *(() if emulated else ("profile bf16 K1", "profile bf16 K8"))):
        (spent,) = (row["seconds"] for row in found[key])
        assert set(spent) == COMPONENTS | BACKWARD | {"rest of Python", "step", "smallest step"}
        assert all(seconds > 0 for seconds in spent.values())

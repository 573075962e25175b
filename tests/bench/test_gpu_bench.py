"""The GPU benchmark goes through to its end on the CPU."""

import json
import os
import subprocess
import sys

import pytest
from support import REPOSITORY


@pytest.mark.slow
def test_the_gpu_benchmark_runs_dry_from_end_to_end(tmp_path):
    done = subprocess.run(
        [REPOSITORY / "bench/gpu.sh", "--dry", "--out", str(tmp_path)],
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("done")
    found = json.loads((tmp_path / "gpu-dry.json").read_text())
    assert all(row["packed tokens/s"] > 0 for row in found["packing"])
    assert all(0 < row["MFU plain"] < 1 for row in found["utilisation"])
    assert (tmp_path / "gpu-dry.md").read_text().startswith("# gpu-dry")


def test_without_a_gpu_the_benchmark_says_so(tmp_path):
    done = subprocess.run(
        [sys.executable, REPOSITORY / "bench/gpu.py", "--out", str(tmp_path)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "--dry" in done.stderr

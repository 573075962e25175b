"""What an installed scalectl carries."""

import subprocess
import sys
import zipfile

from support import REPOSITORY


def test_the_wheel_carries_the_demo_sweep_its_results_and_no_tests(tmp_path):
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", tmp_path, REPOSITORY]
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert "scalectl/shipped/sweeps/stdlib-ladder.toml" in names
    assert "scalectl/shipped/reference/sweeps/stdlib-ladder/plan.parquet" in names
    runs = [name for name in names if name.startswith("scalectl/shipped/reference/runs/")]
    assert len(runs) >= 15
    assert not [name for name in names if name.startswith(("tests", "bench")) or "index.parquet" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_shipped_sweeps_all_plan(scalectl, tmp_path):
    for path in sorted((REPOSITORY / "sweeps").glob("*.toml")):
        scalectl("plan", path.stem, cwd=tmp_path)

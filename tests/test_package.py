"""What an installed scalectl carries."""

import subprocess
import sys
import tomllib
import zipfile

from support import REPOSITORY, environment


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


PLANNED_WITH = """
import sys, sysconfig
real = sysconfig.get_path
sysconfig.get_path = lambda name: sys.argv[2] if name in ("purelib", "platlib") else real(name)
from scalectl.cli import app
app(args=["plan", sys.argv[1]])
"""


def test_the_shipped_sweeps_all_plan(scalectl, tmp_path):
    """On the text that they name; the source of all installed packages takes a minute to read, a little of it none."""
    site = tmp_path / "site-packages"
    site.mkdir()
    for i in range(80):  # 8 MB: two epochs of the shortest runs of the GPU ladder
        (site / f"{i}.py").write_text(f"value = {i:05}\n" * 7_500)
    for path in sorted((REPOSITORY / "sweeps").glob("*.toml")):
        if tomllib.loads(path.read_text())["data"]["source"] == "python-packages":
            command = [sys.executable, "-c", PLANNED_WITH, path.stem, str(site)]
            done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert "to train: " in done.stdout
        else:
            scalectl("plan", path.stem, cwd=tmp_path)

"""Somebody's own torch module through the whole command line: swept, killed, resumed, fitted, reported."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from support import REPOSITORY, environment

SWEEP = """\
name = "own"
question = "How does the loss of a gated convolution fall with its width?"

[model]
family = "own_models:GatedConvolution"
width = { grid = [8, 16, 32] }
depth = 1
context = 16

[data]
source = "markov"
length = 200000

[train]
steps = 160
batch_tokens = 64
lr = 0.01
seed = { grid = [0, 1] }

[eval]
every = 40
tokens = 480

[runtime]
checkpoint_seconds = 0.05
keep = true
"""
WITHOUT_TORCH = (
    "import sys\nsys.argv = ['scalectl', *sys.argv[1:]]\nfrom scalectl.cli import main\n"
    "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
    "assert not {'torch', 'own_models'} & set(sys.modules)"
)


def rows_of(folder):
    frame = pd.read_parquet(folder / "results/runs").drop(columns="seconds")
    return frame.sort_values(["run_id", "step", "split", "metric"]).reset_index(drop=True)


def written(folder):
    """The model beside its sweep file, neither of them in the working directory."""
    (folder / "study").mkdir(parents=True)
    shutil.copy(REPOSITORY / "tests/own_models.py", folder / "study")
    (folder / "study/own.toml").write_text(SWEEP)
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory, scalectl):
    """A sweep that ran in peace; its model is gone afterwards."""
    folder = written(tmp_path_factory.mktemp("own") / "quiet")
    said = scalectl("sweep", "study/own.toml", cwd=folder, timeout=600)
    assert "Finished: 6 done." in said.stdout
    assert "Nothing to do: 6/6 done." in scalectl("sweep", "study/own.toml", cwd=folder).stdout
    shutil.rmtree(folder / "study")
    return folder


@pytest.mark.slow
def test_killed_and_resumed_it_gives_the_rows_of_a_quiet_sweep(swept, scalectl, tmp_path):
    folder = written(tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, "-m", "scalectl.cli", "sweep", "study/own.toml"],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("results/live/*/checkpoint")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    assert json.loads(scalectl("status", "--json", cwd=folder).stdout)["counts"].get("lost", 0) >= 1
    scalectl("sweep", "study/own.toml", cwd=folder, timeout=600)
    pd.testing.assert_frame_equal(rows_of(folder), rows_of(swept), check_exact=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["fit", "own"],
        ["predict", "own", "--n", "1M"],
        ["report", "own"],
        ["export", "own", "-o", "own.csv"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_reading_it_needs_neither_torch_nor_the_model(swept, arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    done = subprocess.run(command, cwd=swept, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_reported_is_the_model(swept, scalectl):
    fit = json.loads(scalectl("fit", "own", "--json", cwd=swept).stdout)
    assert fit["fits"][0]["n"] == 6
    index = pd.read_parquet(swept / "results/index.parquet").set_index("model.width")
    assert (index["model.family"] == "own_models:GatedConvolution").all()
    assert (index["pack"] == 1).all()
    for width, row in index.iterrows():
        kernel, norms, table = 2 * width * width * 3 + 2 * width, 2 * 2 * width, 32 * width
        assert row["N_non_embedding"] == kernel + norms
        assert row["N_total"] == kernel + norms + table
        assert row["C_exact"] == 6 * (2 * width * width * 3 + table) * row["D"]
    assert index["held-out/loss"].groupby(level=0).mean().is_monotonic_decreasing
    text = scalectl("report", "own", cwd=swept).stdout
    assert "own_models:GatedConvolution" in text
    assert "width" in text


def test_a_kept_model_is_judged_again_as_long_as_its_code_is_what_it_was(swept, scalectl, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(swept, folder)
    again = ["evaluate", "own", "--tokens", 480, "--as", "again"]
    assert "has no Python source" in scalectl(*again, cwd=folder, code=2).stderr
    source = (REPOSITORY / "tests/own_models.py").read_text()
    (folder / "own_models.py").write_text(source)
    assert "6 runs judged" in scalectl(*again, cwd=folder).stdout
    index = pd.read_parquet(folder / "results/index.parquet")
    assert index["again/loss"].tolist() == pytest.approx(index["held-out/loss"].tolist(), rel=1e-6)
    (folder / "own_models.py").write_text(source + "# edited\n")
    other = scalectl("evaluate", "own", "--tokens", 960, "--as", "other", cwd=folder, code=2)
    assert "the source of own_models:GatedConvolution changed" in other.stderr


def test_a_plan_leaves_torch_to_another_process(scalectl, tmp_path):
    folder = written(tmp_path / "planned")
    command = [sys.executable, "-c", WITHOUT_TORCH, "plan", "study/own.toml"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "6 runs, 0 done" in done.stdout
    assert "trained one by one" in done.stdout
    (folder / "study/own_models.py").write_text("print('hello')\nraise OSError('no licence')\n")
    refused = scalectl("sweep", "study/own.toml", cwd=folder, code=2)
    assert "study/own.toml:5" in refused.stderr
    assert "importing own_models fails: OSError: no licence" in refused.stderr
    assert "Nothing was started." in refused.stderr

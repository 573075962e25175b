"""Somebody's script through the whole command line: swept, killed, diverged, resumed, fitted, reported, exported."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import psutil
import pytest
from support import REPOSITORY, environment

from scalectl.executors.submission import Submission, write_submission
from scalectl.store.layout import open_store
from scalectl.store.sweeps import load_sweep

SWEEP = """\
name = "mine"
question = "How does the loss of my script fall with its width?"

[run]
command = ["{python}", "plain.py", "--width", "{width}", "--seed", "{seed}", "--lr", "{lr}", "--steps", "{steps}",
           "--pause", "{pause}", "--out", "{out}"]
N = "12 * width^2"
D = "steps * 64"
steps = "steps"

[params]
width = { grid = [16, 24, 32, 48, 64, 96] }
seed = { grid = [0, 1] }
steps = 40
lr = 0.1
pause = 0.02
""".replace("{python}", sys.executable)


def written(folder, text=SWEEP):
    folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / "tests/scripts/plain.py", folder)
    (folder / "mine.toml").write_text(text)
    return folder


def rows_of(folder):
    frame = pd.read_parquet(folder / "results/runs").drop(columns="seconds")
    return frame.sort_values(["run_id", "step", "split", "metric"]).reset_index(drop=True)


def scripts(name="plain.py"):
    """Processes of the script that descend from this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if name in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def swept_with_one_killed(folder, name, width, checkpoint):
    """Sweep, and kill the first script of this width that has a checkpoint. Returns: the run, stdout and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "scalectl.cli", "sweep", "mine.toml"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killed = None
    while killed is None and process.poll() is None:
        for script in scripts(name):
            arguments = script.cmdline()
            out = arguments[arguments.index("--out") + 1]
            if arguments[arguments.index("--width") + 1] == str(width) and os.path.exists(f"{out}/{checkpoint}"):
                script.kill()
                killed = os.path.basename(os.path.dirname(out))
                break
        time.sleep(0.01)
    said, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    assert "killed" in told
    assert "diverged at step" in told
    assert not scripts(name)
    return killed, said, told


def exported(scalectl, folder):
    scalectl("export", "mine", "-o", "all.csv", cwd=folder)
    return pd.read_csv(folder / "all.csv").set_index("run_id")


@pytest.fixture(scope="module")
def swept(tmp_path_factory, scalectl):
    """A sweep of 12 cells that ran in peace; its script is gone afterwards."""
    folder = written(tmp_path_factory.mktemp("mine") / "quiet", SWEEP.replace("pause = 0.02", "pause = 0.0"))
    assert "Finished: 12 done." in scalectl("sweep", "mine.toml", cwd=folder).stdout
    assert "Nothing to do: 12/12 done." in scalectl("sweep", "mine.toml", cwd=folder).stdout
    shutil.rmtree(folder / "results/live")
    return folder


def test_one_cell_killed_and_one_diverged_the_others_are_those_of_a_quiet_sweep(swept, scalectl, tmp_path):
    text = SWEEP.replace("lr = 0.1", 'lr = { rule = "max(0.1, 3 * (1 - abs(width - 24)) * (1 - seed))" }')
    folder = written(tmp_path / "killed", text)
    killed, said, _ = swept_with_one_killed(folder, "plain.py", 64, "checkpoint.json")
    assert "Finished: 11 done, 1 diverged." in said
    ours, quiet = rows_of(folder), rows_of(swept)
    same = ["step", "tokens", "flops", "split", "metric", "value"]
    index, calm = exported(scalectl, folder), exported(scalectl, swept)
    assert index.loc[killed, "params.width"] == 64
    for run_id, run in index.iterrows():
        twin = calm[(calm["params.width"] == run["params.width"]) & (calm["train.seed"] == run["train.seed"])].index[0]
        pairs = [
            frame[frame.run_id == name][same].reset_index(drop=True) for frame, name in ((ours, run_id), (quiet, twin))
        ]
        if run["state"] == "diverged":
            assert (run["params.width"], run["train.seed"]) == (24, 0)
            assert pairs[0].step.max() < 40
        else:
            pd.testing.assert_frame_equal(*pairs)
    assert not list((folder / "results/live").iterdir())
    fitted = json.loads(scalectl("fit", "mine", "--bootstrap", "100", "--json", cwd=folder, code=None).stdout)
    assert fitted["fits"][0]["n"] == 11


def test_it_is_planned_fitted_reported_and_exported_like_a_model_of_ours(swept, scalectl):
    plan = scalectl("plan", "mine.toml", cwd=swept)
    assert "2, done" in plan.stdout
    document = json.loads(scalectl("plan", "mine.toml", "--json", cwd=swept).stdout)
    assert document["groups"][0]["N"] == 12 * 16**2
    assert document["groups"][0]["memory"] is None
    fitted = json.loads(scalectl("fit", "mine", "--bootstrap", "100", "--json", cwd=swept).stdout)
    law = next(held for held in fitted["fits"] if held["law"] == "power+constant")
    assert law["params"]["E"] == pytest.approx(1.6, abs=0.1)
    report = scalectl("report", "mine", "--bootstrap", "100", cwd=swept).stdout
    assert "grid    width {16, 24, 32, 48, 64, 96} × seed {0, 1}" in report
    assert "How does the loss of my script fall with its width?" in report
    scalectl("export", "mine", "-o", "all.csv", cwd=swept)
    exported = pd.read_csv(swept / "all.csv")
    assert set(exported.N_non_embedding) == {12 * w**2 for w in (16, 24, 32, 48, 64, 96)}
    assert set(exported.D) == {40 * 64}
    assert (exported["provenance.command"].str.contains("plain.py --width")).all()
    assert exported["C_6nd"].tolist() == (6 * exported.N_non_embedding * exported.D).tolist()
    again = scalectl("fit", "all.csv", "--bootstrap", "100", "--json", cwd=swept)
    assert json.loads(again.stdout)["fits"][0]["params"] == fitted["fits"][0]["params"]


TORCH = """\
name = "mine"
[run]
command = ["PYTHON", "plain_torch.py", "--width", "{width}", "--lr", "{lr}", "--seed", "{seed}", "--out", "{out}"]
rows = 'step (?P<step>\\d+): train loss \\S+, val loss (?P<loss>\\S+)'
N = "32 * width^2 + 4 * width"
D = "120 * 64"
steps = 120
[params]
width = { grid = [4, 8, 16, 32, 48, 64] }
lr = { rule = "3e-3 + 1e30 * max(0, 1 - abs(width - 8)) * seed" }
seed = { grid = [0, 1] }
""".replace("PYTHON", sys.executable)


@pytest.mark.slow
def test_an_unmodified_torch_script_is_swept_by_what_it_prints(scalectl, tmp_path):
    shutil.copy(REPOSITORY / "tests/scripts/plain_torch.py", tmp_path)
    (tmp_path / "mine.toml").write_text(TORCH)
    killed, said, _ = swept_with_one_killed(tmp_path, "plain_torch.py", 32, "checkpoint.pt")
    assert "Finished: 11 done, 1 diverged." in said
    index = exported(scalectl, tmp_path)
    diverged = index[index.state == "diverged"]
    assert (diverged["params.width"].item(), diverged["train.seed"].item()) == (8, 1)
    rows = rows_of(tmp_path)
    assert rows[rows.run_id == killed].step.tolist() == list(range(20, 121, 20))
    assert rows.groupby("run_id").step.apply(lambda steps: steps.is_unique).all()
    fitted = json.loads(scalectl("fit", "mine", "--bootstrap", "100", "--json", cwd=tmp_path, code=None).stdout)
    assert fitted["fits"][0]["n"] == 11
    assert fitted["fits"][0]["params"]["alpha"] > 0
    report = scalectl("report", "mine", "--bootstrap", "100", cwd=tmp_path).stdout
    assert "12 runs: 11 done, 1 diverged" in report
    assert "grid    width {4, 8, 16, 32, 48, 64}" in report


def test_an_axis_that_was_not_named_is_refused_and_the_best_is_taken_over_it(scalectl, tmp_path):
    text = SWEEP.replace("lr = 0.1", "lr = { grid = [0.05, 0.1, 0.2] }").replace("[0, 1]", "[0]").replace("0.02", "0.0")
    text = text.replace("[16, 24, 32, 48, 64, 96]", "[16, 32, 64]")
    folder = written(tmp_path / "rates", text)
    scalectl("sweep", "mine.toml", cwd=folder)
    refused = scalectl("fit", "mine", cwd=folder, code=2).stderr
    assert "params.lr" in refused
    best = scalectl("fit", "mine", "--best-over", "params.lr", "--bootstrap", "100", cwd=folder, code=None)
    assert best.returncode in (0, 1)
    assert "lr" in best.stdout


def test_ctrl_c_pauses_and_the_same_command_resumes_from_the_scripts_own_checkpoints(scalectl, tmp_path, swept):
    folder = written(tmp_path / "stopped", SWEEP.replace("[16, 24, 32, 48, 64, 96]", "[16, 24]"))
    process = subprocess.Popen(
        [sys.executable, "-m", "scalectl.cli", "sweep", "mine.toml"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(folder.glob("results/live/*/out/checkpoint.json")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "paused" in said
    assert not scripts()
    status = scalectl("status", "mine", cwd=folder).stdout
    assert "the script goes on" in status
    assert "Finished: 4 done." in scalectl("sweep", "mine.toml", cwd=folder).stdout
    ours, quiet = (rows_of(place)[["step", "value"]].value_counts() for place in (folder, swept))
    assert set(ours.index) <= set(quiet.index)
    assert len(rows_of(folder)) == 4 * 4


FAILING = """\
name = "failing"
[run]
command = ["PYTHON", "bad.py", "{how}"]
[params]
how = { grid = KINDS }
""".replace("PYTHON", sys.executable)
BAD = """\
import json, os, sys, time
how = sys.argv[1]
print("here", how)
if how == "raise":
    raise ValueError("no such thing")
if how == "exit":
    sys.exit(3)
if how == "silent":
    sys.exit(0)
if how == "segfault":
    os.abort()
if how == "full":
    sys.exit("OSError: [Errno 28] No space left on device: 'x'")
with open(os.environ["SCALECTL_ROWS"], "a") as rows:
    rows.write("loose line\\n" + json.dumps({"step": 5, "loss": 2.0}) + "\\n" + json.dumps({"N": 77}))
"""


def test_how_a_script_ends_is_said_and_what_fails_waits(scalectl, tmp_path):
    (tmp_path / "bad.py").write_text(BAD)
    kinds = ["raise", "exit", "silent", "segfault", "good"]
    text = FAILING.replace("KINDS", json.dumps(kinds))
    (tmp_path / "failing.toml").write_text(text)
    said = scalectl("sweep", "failing.toml", cwd=tmp_path, code=1)
    assert "3 failed" in said.stdout
    assert "1 lost" in said.stdout
    assert said.stderr.count("killed by SIGABRT") == 3  # tried twice more
    rows = json.loads(scalectl("status", "failing", "--json", cwd=tmp_path).stdout)["rows"]
    found = {row["cell"]["params.how"]: row for row in rows}
    assert found["raise"]["message"] == "exit code 1: ValueError: no such thing"
    assert found["exit"]["message"] == "exit code 3: here exit"
    assert "has written no row to SCALECTL_ROWS" in found["silent"]["message"]
    assert found["segfault"]["state"] == "lost"
    log = scalectl("logs", found["raise"]["run_id"], cwd=tmp_path).stdout
    assert "Traceback" in log
    scalectl("export", "failing", "-o", "x.csv", cwd=tmp_path)
    good = pd.read_csv(tmp_path / "x.csv").set_index("params.how").loc["good"]
    assert (good["N_non_embedding"], good["held-out/loss"], good["steps"]) == (77, 2.0, 5)


def test_equal_failures_stop_the_sweep_and_a_full_disk_pauses_it(scalectl, tmp_path):
    (tmp_path / "bad.py").write_text(BAD)
    text = FAILING.replace("KINDS", '["raise"]') + "n = { grid = [1, 2, 3, 4, 5, 6, 7, 8] }\n"
    (tmp_path / "failing.toml").write_text(text.replace('"{how}"', '"{how}", "{n}"'))
    said = scalectl("sweep", "failing.toml", cwd=tmp_path, code=1)
    assert "3 jobs failed alike: exit code 1: ValueError: no such thing" in said.stderr
    assert "pending" in said.stdout
    (tmp_path / "full.toml").write_text(FAILING.replace("KINDS", '["full"]'))
    said = scalectl("sweep", "full.toml", cwd=tmp_path, code=4)
    assert "1 paused" in said.stdout
    assert "the disk is full" in said.stderr


def test_a_script_edited_after_the_plan_makes_other_runs(swept, scalectl, tmp_path):
    folder = tmp_path / "edited"
    shutil.copytree(swept, folder)
    with (folder / "plain.py").open("a") as file:
        file.write("# another comment\n")
    plan = json.loads(scalectl("plan", "mine.toml", "--json", cwd=folder).stdout)
    assert plan["todo"] == 12
    assert plan["older"] == 12
    assert plan["seconds"] is None


def test_a_sweep_of_another_folder_is_trained_by_its_name_and_by_a_pilot(scalectl, tmp_path):
    written(tmp_path / "sub", SWEEP.replace("[16, 24, 32, 48, 64, 96]", "[16]"))
    scalectl("sweep", "sub/mine.toml", "--set", "params.seed=0", cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    results = tmp_path / "results"
    assert "Nothing to do: 1/1" in scalectl("plan", "mine", "--results", results, cwd=elsewhere).stdout
    store = open_store(results)
    (results / "runs" / f"{load_sweep(store, 'mine').current[0]}.parquet").unlink()
    record = write_submission(store, Submission("mine", "0123abcd", 1))
    scalectl("pilot", record, cwd=elsewhere)
    assert json.loads(scalectl("status", "mine", "--json", cwd=tmp_path).stdout)["counts"] == {"done": 1}
    (tmp_path / "sub").rename(tmp_path / "moved")  # then it is looked for where one stands, as before
    assert "Nothing to do: 1/1" in scalectl("plan", "mine", "--results", results, cwd=tmp_path / "moved").stdout

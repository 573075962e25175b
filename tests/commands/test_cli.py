"""The promises of the command line, kept by real processes."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from support import PUBLISHED, REPOSITORY, SWEEP, environment

from scalectl.tasks import markov

READING = {
    "plan": ["plan", "tiny.toml"],
    "status": ["status"],
    "logs": None,
    "fit": ["fit", "tiny"],
    "predict": ["predict", "tiny", "--n", "1M"],
    "compare": ["compare", "positions", "--by", "position", "--bootstrap", "100"],
    "report": ["report", "tiny"],
    "doctor": ["doctor"],
    "export": ["export", "tiny", "-o", "out.csv"],
}


def command(name, folder):
    if name == "logs":
        return ["logs", next((folder / "results/runs").glob("*.parquet")).stem]
    return READING[name]


def test_a_sweep_of_which_no_run_has_ended_says_so_where_a_metric_is_asked_for(trained, scalectl, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    for path in (folder / "results/runs").iterdir():
        path.unlink()
    for metric in ("train/loss", "exact_match"):
        said = scalectl("fit", "tiny", "--metric", metric, cwd=folder, code=3).stderr
        assert " has ended" in said, said


def test_without_draws_nothing_was_judged_and_json_has_nulls(trained, scalectl):
    for draws, kinds in ((0, {type(None)}), (100, {bool})):
        said = json.loads(scalectl("fit", "tiny", "--bootstrap", draws, "--json", cwd=trained).stdout)
        assert {type(known) for fit in said["fits"] for known in fit["identified"].values()} == kinds


def rows_of(folder):
    frame = pd.read_parquet(folder / "results/runs").drop(columns="seconds")
    return frame.sort_values(["run_id", "step", "split", "metric"]).reset_index(drop=True)


def test_a_sweep_leaves_one_verified_row_per_measurement_and_one_index_row_per_run(trained):
    frame = pd.read_parquet(trained / "results/runs")
    assert frame["run_id"].nunique() == 6
    assert frame.notna().all().all()
    assert np.isfinite(frame["value"]).all()
    assert not frame.duplicated(["run_id", "step", "split", "metric"]).any()
    index = pd.read_parquet(trained / "results/index.parquet")
    assert sorted(index["run_id"]) == sorted(frame["run_id"].unique())
    assert (index["state"] == "done").all()
    assert (index["held-out/loss"] > 1.4).all()
    assert set(index["model.d_model"]) == {8, 16, 32}


def test_the_same_sweep_again_has_nothing_to_do(trained, scalectl):
    before = {path: path.stat().st_mtime_ns for path in (trained / "results/runs").iterdir()}
    again = scalectl("sweep", "tiny.toml", cwd=trained)
    assert again.stdout == "Nothing to do: 6/6 done.  Next:  scalectl fit tiny\n"
    assert before == {path: path.stat().st_mtime_ns for path in (trained / "results/runs").iterdir()}


def test_a_width_more_trains_only_what_is_missing(trained, scalectl, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "results/runs").iterdir()}
    (folder / "tiny.toml").write_text(SWEEP.replace("[8, 16, 32]", "[8, 16, 32, 24]"))
    plan = json.loads(scalectl("plan", "tiny.toml", "--json", cwd=folder).stdout)
    assert sum(group["runs"] - group["done"] for group in plan["groups"]) == 2
    scalectl("plan", "tiny.toml", "--detailed-exitcode", cwd=folder, code=10)
    scalectl("sweep", "tiny.toml", cwd=folder)
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "results/runs").iterdir()}
    assert len(after) == 8
    assert {name: after[name] for name in before} == before
    scalectl("plan", "tiny.toml", "--detailed-exitcode", cwd=folder)


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "tiny.toml"], *READING])
def test_torch_is_imported_by_nothing_that_only_reads(trained, arguments, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    arguments = command(arguments, folder) if isinstance(arguments, str) else arguments
    script = (
        "import sys\nsys.argv = ['scalectl', *sys.argv[1:]]\nfrom scalectl.cli import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "sys.exit(bool({'torch', 'scipy.stats', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_runs_are_fitted_without_importing_pandas(trained):
    script = (
        "import sys\nfrom scalectl.commands.fit import Request, run\nrun(Request(target='tiny', draws=0))\n"
        "print(sorted({'pandas', 'pyarrow.compute', 'scipy'} & set(sys.modules)))"
    )
    known = environment(SCALECTL_RESULTS=str(trained / "results"))
    done = subprocess.run([sys.executable, "-c", script], cwd=trained, env=known, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", ["plan", "status", "logs", "fit", "predict", "compare", "report", "doctor"])
def test_every_reading_command_speaks_json_whose_first_key_is_its_schema(trained, scalectl, name):
    text = scalectl(*command(name, trained), "--json", cwd=trained).stdout
    document = json.loads(text)
    assert next(iter(document)) == "schema"
    assert document["schema"] == f"scalectl/{name}@1"
    assert "NaN" not in text
    assert "Infinity" not in text


def test_fit_json_has_the_keys_that_scripts_rely_on(trained, scalectl):
    document = json.loads(scalectl("fit", "tiny", "--json", cwd=trained).stdout)
    assert {"fits", "chosen", "because"} <= set(document)
    assert [held["law"] for held in document["fits"]] == ["power", "power+constant"]
    for held in document["fits"]:
        assert set(held) >= {
            "law", "formula", "objective", "gradient_norm", "starts", "starts_at_optimum", "status", "n", "convention",
            "params", "intervals", "level", "unit", "identified", "aicc", "holdout", "optimal",
        }  # fmt: skip
        assert set(held["objective"]) == {"name", "delta", "value"}
        assert held["unit"] == "size"
        assert set(held["intervals_by_unit"]) == {"size", "run"}


@pytest.mark.parametrize("name", [None, "init", "plan", "sweep", "status", "logs", "fit", "predict", "compare",
                                  "report", "import", "export", "prepare", "doctor", "stop", "clean"])  # fmt: skip
def test_every_command_has_help(scalectl, tmp_path, name):
    text = scalectl(*([name] if name else []), "--help", cwd=tmp_path).stdout
    assert text.startswith("Usage:")
    assert all(len(line) <= 100 for line in text.splitlines())


def test_kill_nine_of_the_whole_group_then_the_same_command_gives_the_rows_of_a_quiet_sweep(
    trained, scalectl, tmp_path
):
    folder = tmp_path
    long = SWEEP.replace("steps = 30", "steps = 500").replace("[8, 16, 32]", "[8, 16]")
    long += "\n[runtime]\ncheckpoint_seconds = 0.2\n"
    (folder / "tiny.toml").write_text(long)
    (folder / "quiet").mkdir()
    (folder / "quiet/tiny.toml").write_text(long)
    process = subprocess.Popen(
        [sys.executable, "-m", "scalectl.cli", "sweep", "tiny.toml"],
        cwd=folder,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("results/live/*/checkpoint")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)
    state = json.loads(scalectl("status", "--json", cwd=folder).stdout)
    assert state["counts"].get("lost", 0) >= 1
    scalectl("sweep", "tiny.toml", cwd=folder)
    scalectl("sweep", "tiny.toml", cwd=folder / "quiet")
    pd.testing.assert_frame_equal(rows_of(folder), rows_of(folder / "quiet"), check_exact=True)
    assert not rows_of(folder).duplicated(["run_id", "step", "split", "metric"]).any()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_checkpoints_and_the_same_command_resumes(scalectl, tmp_path, number, code):
    (tmp_path / "tiny.toml").write_text(SWEEP.replace("steps = 30", "steps = 1000").replace("[8, 16, 32]", "[8]"))
    process = subprocess.Popen(
        [sys.executable, "-m", "scalectl.cli", "sweep", "tiny.toml"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob("results/live/*/rows.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Stopping: " in err
    assert "The same command resumes." in out
    assert "lost" not in err
    counts = json.loads(scalectl("status", "--json", cwd=tmp_path).stdout)["counts"]
    assert "running" not in counts
    assert counts["paused"] >= 1
    again = scalectl("sweep", "tiny.toml", cwd=tmp_path)
    assert re.search(r"runs? (goes|go) on, last seen at step \d+", again.stderr)
    assert "Finished: 2 done." in again.stdout


MALFORMED = {
    "not TOML": ("name = ", 1),
    "unknown key": (SWEEP.replace("n_layer = 1", "n_layr = 1"), 7),
    "wrong type": (SWEEP.replace("[8, 16, 32]", '[8, "wide"]'), 6),
    "bad cell": (SWEEP.replace("n_head = 2", "n_head = 3"), 6),
    "two lengths": (SWEEP.replace("steps = 30", "steps = 30\ntokens = 1e6"), 16),
    "negative rate": (SWEEP.replace("lr = 0.01", "lr = -0.01"), 18),
    "NaN": (SWEEP.replace("lr = 0.01", "lr = nan"), 18),
    "duplicate key": (SWEEP.replace("context = 16", "context = 16\ncontext = 32"), 10),
    "no such text": (SWEEP.replace('"markov"\nlength = 200000', '"text:/nowhere"'), 12),
    "bad rule": (SWEEP.replace("lr = 0.01", 'lr = { rule = "__import__(1)" }'), 18),
    "bad name": (SWEEP.replace('"tiny"', '"../../x"'), 1),
    "batch does not divide": (SWEEP.replace("batch_tokens = 64", "batch_tokens = 65"), 17),
    "huge grid": (
        SWEEP.replace("[0, 1]", str(list(range(2_000)))).replace("= 0.01", f"= {{ grid = {[0.01] * 2_000} }}"),
        1,
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_sweep_is_refused_with_its_line_and_nothing_starts(scalectl, tmp_path, case):
    text, line = MALFORMED[case]
    (tmp_path / "bad.toml").write_text(text)
    done = scalectl("sweep", "bad.toml", cwd=tmp_path, code=2)
    assert f"bad.toml:{line}" in done.stderr
    assert "Nothing was started." in done.stderr
    assert not (tmp_path / "results").exists()


def test_all_mistakes_of_a_file_are_reported_at_once_with_guesses(scalectl, tmp_path):
    text = SWEEP.replace("n_layer = 1", "n_layr = 1").replace("warmup = 4", "warmupp = 4").replace("= 480", '= "x"')
    (tmp_path / "bad.toml").write_text(text)
    error = scalectl("plan", "bad.toml", cwd=tmp_path, code=2).stderr
    assert "did you mean n_layer?" in error
    assert "did you mean warmup?" in error
    assert "eval.tokens" in error


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["repot"], 2, "report"),
        (["fit", "--boostrap", "3"], 2, "--boostrap"),
        (["fit", "tinny"], 3, "did you mean tiny"),
        (["fit", "tiny", "--law", "chinchila"], 2, "did you mean chinchilla"),
        (["fit", "tiny", "--where", "loss <"], 2, "loss <"),
        (["fit", "tiny", "--where", "train.lr > 7"], 3, "no row answers"),
        (["fit", "tiny", "--metric", "held-out/accuracy"], 3, "loss"),
        (["fit", "tiny", "--convention", "mine"], 2, "non_embedding"),
        (["fit", "tiny", "--map", "N=x"], 2, "--map"),
        (["predict", "tiny"], 2, "nothing to predict"),
        (["predict", "tiny", "--d", "1M"], 2, "give --n"),
        (["predict", "tiny", "--n", "1M", "--c", "1e12"], 2, "ask one by one"),
        (["predict", "tiny", "--n", "-3"], 2, "not a positive number"),
        (["logs", "zzzz"], 3, "no run begins"),
        (["sweep", "nowhere.toml"], 2, "shipped: cpu-ladder, emergence-multiplication"),
        (["sweep", "stdlib-lader.toml"], 2, "did you mean stdlib-ladder?"),
        (["plan", "tinny"], 2, "did you mean tiny?"),
        (["report", "gpu-ladder"], 3, "train it: scalectl sweep gpu-ladder"),
        (["report", "gpu-lader"], 3, "did you mean gpu-ladder?"),
        (["report", "nothing-like-it"], 3, "stdlib-ladder"),
        (["sweep", "tiny.toml", "--retry", "all"], 2, "--retry failed"),
        (["import", "nowhere.csv"], 3, "nowhere.csv"),
        (["export", "tiny", "-o", "x.json"], 2, ".parquet"),
        (["init"], 0, ""),
    ],
)
def test_a_bad_request_is_said_in_a_few_lines_with_its_code(trained, scalectl, tmp_path, arguments, code, said):
    folder = shutil.copytree(trained, tmp_path / "copy")
    done = scalectl(*arguments, cwd=folder, code=code)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 4


def test_a_sweep_of_the_store_goes_on_by_its_name_with_what_was_set(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP)
    scalectl("sweep", "tiny.toml", "--set", "train.steps=12", "--set", "model.d_model=8", cwd=tmp_path)
    (tmp_path / "tiny.toml").unlink()
    assert "Nothing to do: 2/2 done." in scalectl("sweep", "tiny", cwd=tmp_path).stdout
    assert "Nothing to do: 2/2 done." in scalectl("plan", "tiny", cwd=tmp_path).stdout


def test_without_a_sweep_nobody_elses_results_are_shown_unasked(scalectl, tmp_path):
    for verb in ("status", "fit", "report"):
        error = scalectl(verb, cwd=tmp_path, code=3).stderr
        assert "there is no sweep yet" in error
        assert "stdlib-ladder" in error


def test_a_sweep_file_or_its_folder_may_stand_for_its_sweep(trained, scalectl, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    assert "6 runs" in scalectl("fit", "tiny.toml", cwd=folder).stdout
    (folder / "here").mkdir()
    (folder / "tiny.toml").rename(folder / "here/sweep.toml")
    done = scalectl("plan", "here", cwd=folder).stdout
    assert "Nothing to do: 6/6" in done
    assert "trained" not in done  # nothing is, whether alone or in packs


def test_the_log_of_a_run_says_which_one_it_is(trained, scalectl):
    index = pd.read_parquet(trained / "results/index.parquet").set_index("run_id")
    for run_id in (index.index[0], index.index[-1]):
        said = scalectl("logs", run_id[:8], cwd=trained).stdout.splitlines()
        row = index.loc[run_id]
        assert said[0] == f"{run_id}  done at step 30"
        assert said[1] == f"tiny  d_model={row['model.d_model']} seed={row['train.seed']}"
        assert f"held-out/loss {row['held-out/loss']:.4g}" in " ".join(said[2:5])
        held = json.loads(scalectl("logs", run_id, "--json", cwd=trained).stdout)
        assert (held["sweep"], held["cell"]["train.seed"]) == ("tiny", row["train.seed"])


def test_all_reads_the_runs_of_earlier_versions_too(trained, scalectl, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    (folder / "tiny.toml").write_text(SWEEP.replace("[8, 16, 32]", "[8, 16]"))
    scalectl("sweep", "tiny.toml", cwd=folder)
    runs = {}
    for more in ((), ("--all",)):
        status = json.loads(scalectl("status", "tiny", *more, "--json", cwd=folder).stdout)
        report = json.loads(scalectl("report", "tiny", *more, "--bootstrap", "0", "--json", cwd=folder).stdout)
        scalectl("export", "tiny", *more, "-o", "out.csv", cwd=folder)
        with open(folder / "out.csv") as file:
            exported = len(list(csv.DictReader(file)))
        runs[more] = (status["counts"], len(report["runs"]), exported)
        widths = next(axis["values"] for axis in report["axes"] if axis["key"] == "model.d_model")
        assert widths == ([8, 16, 32] if more else [8, 16])
    assert runs == {(): ({"done": 4}, 4, 4), ("--all",): ({"done": 6}, 6, 6)}


def test_a_trial_with_set_says_so_wherever_its_runs_are_read(trained, scalectl, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    scalectl("sweep", "tiny.toml", "--set", "train.steps=12", cwd=folder)
    for verb in ("status", "fit"):
        assert "last run with --set train.steps=12" in " ".join(scalectl(verb, "tiny", cwd=folder).stdout.split())
    scalectl("sweep", "tiny.toml", cwd=folder)
    assert "--set" not in scalectl("fit", "tiny", cwd=folder).stdout


def test_plan_and_report_name_how_all_runs_are_trained(trained, scalectl):
    how = "batch_tokens 64, optimizer adamw, lr 0.01, schedule wsd, precision fp32"
    for arguments in (["plan", "tiny.toml"], ["report", "tiny"]):
        assert how in " ".join(scalectl(*arguments, cwd=trained).stdout.split())


def test_a_sweep_whose_runs_all_diverged_is_not_sent_to_fit(scalectl, tmp_path):
    one = SWEEP.replace("[8, 16, 32]", "[8]").replace("lr = 0.01", "lr = 1e30\nclip = 0.0")
    (tmp_path / "tiny.toml").write_text(one)
    said = scalectl("sweep", "tiny.toml", cwd=tmp_path).stdout
    assert "2 diverged" in said
    assert "lower train.lr" in said


def test_the_bare_command_is_help_and_no_error(scalectl, tmp_path):
    done = scalectl(cwd=tmp_path)
    assert done.stdout.startswith("Usage:")
    assert done.stderr == ""


def test_a_budget_that_does_not_suffice_is_refused_before_anything_starts(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP + "\n[budget]\ndevice_hours = 1e-9\n")
    planned = " ".join(scalectl("plan", "tiny.toml", cwd=tmp_path).stdout.split())
    assert "warning: sweep refuses: what is left needs about" in planned
    done = scalectl("sweep", "tiny.toml", cwd=tmp_path, code=4)
    assert "device-hours" in done.stderr
    assert not (tmp_path / "results/runs").exists() or not list((tmp_path / "results/runs").iterdir())


def test_what_no_machine_has_is_refused_before_minutes_of_measuring(scalectl, tmp_path):
    large = SWEEP.replace("[8, 16, 32]", "[65536]").replace("n_layer = 1", "n_layer = 100")
    (tmp_path / "tiny.toml").write_text(large)
    planned = " ".join(scalectl("plan", "tiny.toml", cwd=tmp_path).stdout.split())
    assert "warning: sweep refuses: the sweep needs about" in planned
    assert "warning: what trains at once takes" in planned
    done = scalectl("sweep", "tiny.toml", cwd=tmp_path, code=4)
    assert done.stderr.startswith("error: the sweep needs about")


def test_what_a_run_has_trained_already_is_not_planned_again(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP.replace("[8, 16, 32]", "[8]") + "\n[on_error]\nretries = 0\n")
    whole = json.loads(scalectl("plan", "tiny.toml", "--json", cwd=tmp_path).stdout)
    scalectl("sweep", "tiny.toml", cwd=tmp_path, code=1, SCALECTL_FAULT="worker.after_step:20=kill")
    left = json.loads(scalectl("plan", "tiny.toml", "--json", cwd=tmp_path).stdout)
    assert left["flops"] == pytest.approx(whole["flops"] * 2 / 3)  # it had told of step 10
    assert left["seconds"] == pytest.approx(whole["seconds"] * 2 / 3)


def test_an_axis_that_was_not_named_is_refused_not_pooled(scalectl, tmp_path):
    text = SWEEP.replace("lr = 0.01", "lr = { grid = [0.003, 0.01] }").replace("steps = 30", "steps = 10")
    (tmp_path / "tiny.toml").write_text(text)
    scalectl("sweep", "tiny.toml", cwd=tmp_path)
    refused = scalectl("fit", "tiny", cwd=tmp_path, code=2)
    assert "train.lr" in refused.stderr
    split = json.loads(scalectl("fit", "tiny", "--by", "lr", "--json", cwd=tmp_path).stdout)
    assert [group["group"] for group in split["groups"]] == ["train.lr=0.003", "train.lr=0.01"]
    one = json.loads(scalectl("fit", "tiny", "--where", "train.lr == 0.01", "--json", cwd=tmp_path).stdout)
    assert one["fits"][0]["n"] == 6


def test_budgets_that_vary_are_not_seeds_and_not_noise(scalectl, tmp_path):
    rows = [(n, d, 1.8 + 480 / n**0.35 + 2100 / d**0.37) for n in (1e6, 3e6, 1e7, 3e7, 1e8) for d in (1e8, 1e9, 1e10)]
    (tmp_path / "x.csv").write_text("N,D,L\n" + "".join(f"{n},{d},{loss}\n" for n, d, loss in rows))
    refused = scalectl("fit", "x.csv", "--law", "power", cwd=tmp_path, code=2)
    assert "D varies too" in refused.stderr
    joint = json.loads(scalectl("fit", "x.csv", "--json", cwd=tmp_path).stdout)
    assert joint["seeds"] == 1
    assert "between seeds" not in scalectl("fit", "x.csv", cwd=tmp_path).stdout
    few = scalectl("fit", "x.csv", "--bootstrap", 5, cwd=tmp_path, code=2)
    assert "at least 100" in few.stderr


def test_before_any_run_has_ended_the_report_says_what_is_missing(scalectl, tmp_path):
    one = SWEEP.replace("[8, 16, 32]", "[8]").replace("[0, 1]", "[0]").replace("steps = 30", "steps = 100000")
    (tmp_path / "tiny.toml").write_text(one)
    process = subprocess.Popen(
        [sys.executable, "-m", "scalectl.cli", "sweep", "tiny.toml"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("results/live/*/rows.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        elsewhere = scalectl("sweep", "tiny.toml", cwd=tmp_path, code=75)
        assert "1 trained by another process" in elsewhere.stdout
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    text = scalectl("report", "tiny", cwd=tmp_path).stdout
    assert "888" in text  # N, though nothing of it has ended
    assert "paused" in text
    assert "no finished run" in scalectl("fit", "tiny", cwd=tmp_path, code=3).stderr
    assert "no finished run" in scalectl("predict", "tiny", "--n", "1M", cwd=tmp_path, code=3).stderr


def test_a_fit_to_data_of_known_entropy_names_their_floor(trained, scalectl):
    floor = markov.floor(markov.Options(length=200_000), 16)
    for verb in ("fit", "report"):
        notes = " ".join(json.loads(scalectl(verb, "tiny", "--json", cwd=trained).stdout)["notes"])
        assert f"no predictor gets below {floor:.4f}" in notes
        assert f"--fix E={floor:.4f}" in notes


def test_a_reader_that_leaves_early_is_not_an_error(trained):
    process = subprocess.Popen(
        f"{sys.executable} -m scalectl.cli report tiny | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=trained,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert len(out.splitlines()) == 1


def test_other_peoples_runs_come_in_and_are_fitted(scalectl, tmp_path):
    sizes = np.geomspace(1e6, 1e9, 8)
    with (tmp_path / "theirs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["n_params", "tokens", "loss"])
        writer.writerows([n, 2e10, 20 * n**-0.08] for n in sizes)
    direct = json.loads(scalectl("fit", "theirs.csv", "--bootstrap", 100, "--json", cwd=tmp_path).stdout)
    assert direct["fits"][0]["params"]["alpha"] == pytest.approx(0.08, rel=1e-6)
    scalectl("import", "theirs.csv", cwd=tmp_path)
    stored = json.loads(scalectl("fit", "theirs", "--bootstrap", 100, "--json", cwd=tmp_path).stdout)
    assert stored["fits"][0]["params"]["alpha"] == pytest.approx(0.08, rel=1e-6)
    assert "8 known" in scalectl("import", "results", "--results", "results", cwd=tmp_path).stdout


def test_init_writes_a_sweep_file_that_plans(scalectl, tmp_path):
    said = scalectl("init", "here", cwd=tmp_path).stdout
    assert "scalectl sweep here/sweep.toml" in said
    assert "8 runs" in scalectl("plan", "here/sweep.toml", cwd=tmp_path).stdout
    assert "exists already" in scalectl("init", "here", cwd=tmp_path, code=2).stderr


def test_the_shipped_results_answer_before_anything_was_trained(scalectl, tmp_path):
    text = scalectl("report", "stdlib-ladder", cwd=tmp_path).stdout
    assert "shipped with scalectl" in text
    assert "L = A/N^α" in text
    assert "shipped results" in scalectl("fit", "stdlib-ladder", cwd=tmp_path).stdout
    same = scalectl("report", "stdlib-ladder", cwd=tmp_path, SCALECTL_RESULTS=str(REPOSITORY / "results/reference"))
    assert "L = A/N^α" in same.stdout
    assert not (tmp_path / "results").exists()


def test_a_grid_with_dropped_cells_is_shown_in_the_order_of_its_numbers(scalectl, tmp_path):
    text = scalectl("report", "cpu-ladder", "--bootstrap", 0, cwd=tmp_path, COLUMNS="80").stdout
    assert "tokens_per_param {5, 10, 20}" in " ".join(text.split())
    assert "   56       76.8  k         1.988 ± 0.004  1.736 ± 0.006  1.548 ± 0.005\n" in text


def test_results_that_cannot_be_written_are_still_read(trained, scalectl, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    (folder / "results/index.parquet").unlink()
    for path in (folder / "results", folder / "results/runs"):
        path.chmod(0o555)
    try:
        assert "6 runs" in scalectl("fit", "tiny", cwd=folder).stdout
        assert "tiny" in scalectl("status", cwd=folder).stdout
    finally:
        for path in (folder / "results", folder / "results/runs"):
            path.chmod(0o755)


def test_escape_codes_in_data_are_printed_harmlessly(scalectl, tmp_path):
    (tmp_path / "x.csv").write_text("N,L,evil\n1e6,3.0,\x1b[31m\n1e7,2.5,[red]\n1e8,2.1,x\n")
    done = scalectl("fit", "x.csv", "--by", "evil", cwd=tmp_path, code=None)
    assert "\x1b" not in done.stdout + done.stderr


def test_the_epoch_points_give_the_published_optimum(scalectl, tmp_path):
    table = PUBLISHED / "epoch_chinchilla/svg_extracted_data.csv"
    if not table.exists():
        pytest.skip(f"the published table is not at {table}")
    flags = ["--map", "N=Model Size", "--map", "C=Training FLOP", "--map", "L=loss", "--where", "loss < 3.44"]
    text = scalectl("fit", table, *flags, "--law", "chinchilla", "--bootstrap", 100, "--json", cwd=tmp_path).stdout
    fit = json.loads(text)["fits"][0]
    assert fit["n"] == 240
    assert fit["objective"]["value"] <= 0.00101827402
    assert fit["params"]["A"] == pytest.approx(477.83, abs=0.05)
    assert fit["params"]["B"] == pytest.approx(2143.4, abs=0.3)
    assert fit["params"]["E"] == pytest.approx(1.81722, abs=1e-5)
    assert fit["params"]["alpha"] == pytest.approx(0.34731, abs=1e-5)
    assert fit["params"]["beta"] == pytest.approx(0.36717, abs=1e-5)

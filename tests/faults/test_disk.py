"""Disks that are full, read-only, damaged or gone (faults 7, 8, 9 and 16)."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest
from support import SWEEP, ended, environment, one_run, rows_of, started, wait_until

from scalectl.executors.drive import Policy
from scalectl.store.live import host_identity, live


def own_mounts():
    """Whether this user may mount in a namespace of its own."""
    try:
        tried = subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return tried.returncode == 0


mounts = pytest.mark.skipif(not own_mounts(), reason="needs unshare -m and mount, as root has them")


def in_namespace(script, folder, **more):
    """Run a shell script with mounts of its own; $S is scalectl. Returns what it said as `word: text`, and all."""
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", script],
        cwd=folder,
        env=environment(S=f"{sys.executable} -m scalectl.cli", **more),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    said = dict(line.partition(": ")[::2] for line in done.stdout.splitlines() if ": " in line)
    return said, done.stdout, done.stderr


FULL = """
mkdir results && mount -t tmpfs -o size=6m none results
$S sweep tiny.toml >out 2>err & sweep=$!
until ls results/live/*/checkpoint >/dev/null 2>&1; do sleep 0.05; done
dd if=/dev/zero of=results/fill bs=4k 2>/dev/null
wait $sweep; echo "sweep: $?"
echo "checkpoint: $(ls results/live/*/checkpoint | wc -l)"
echo "partial: $(find results -name '.*.tmp' | wc -l)"
$S status --json >status 2>&1; echo "status: $?"
rm results/fill
$S sweep tiny.toml >again 2>&1; echo "again: $?"
cp -r results copied
"""


@mounts
def test_fault_07_a_disk_that_fills_pauses_the_sweep_and_the_same_command_goes_on(scalectl, tmp_path):
    (tmp_path / "tiny.toml").write_text(one_run(400, checkpoint_seconds=0.2))
    said, out, err = in_namespace(FULL, tmp_path)
    assert said["sweep"] == "4", out + err
    errors = (tmp_path / "err").read_text()
    assert "no space left to write" in errors
    assert "Traceback" not in errors
    assert said["checkpoint"] == "1"
    assert said["partial"] == "0"
    assert said["status"] == "0"
    assert json.loads((tmp_path / "status").read_text())["counts"] == {"paused": 1}
    assert said["again"] == "0", (tmp_path / "again").read_text()
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    shutil.copy(tmp_path / "tiny.toml", quiet)
    scalectl("sweep", "tiny.toml", cwd=quiet)
    found = pd.read_parquet(tmp_path / "copied/runs").drop(columns="seconds")
    order = ["run_id", "step", "split", "metric"]
    found = found.sort_values(order).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, rows_of(quiet), check_exact=True)


@mounts
def test_fault_07_what_the_disk_cannot_take_is_refused_before_the_start(tmp_path):
    (tmp_path / "tiny.toml").write_text(SWEEP)
    script = (
        'mkdir results && mount -t tmpfs -o size=64k none results && $S sweep tiny.toml >out 2>err; echo "sweep: $?"'
    )
    said, out, _ = in_namespace(script, tmp_path)
    assert said["sweep"] == "4", out
    assert "the sweep needs about" in (tmp_path / "err").read_text()


@pytest.mark.slow
def test_fault_07_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path, scalectl):
    (tmp_path / "tiny.toml").write_text(one_run(200, checkpoint_seconds=0.2).replace("= [8]", "= [32]"))
    small = ["prlimit", "--fsize=20000:20000"]
    sweep = started(tmp_path, "sweep", "tiny.toml", prefix=small)
    out, err = sweep.communicate(timeout=300)
    assert sweep.returncode == 4, out + err
    assert "no space left to write checkpoint" in err
    assert "1 paused" in out
    assert not list(tmp_path.glob("results/**/.*.tmp"))
    scalectl("sweep", "tiny.toml", cwd=tmp_path)
    assert rows_of(tmp_path)["step"].max() == 200


def slowly(*values):
    """Parameters of the slow tests."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def columns(path):
    """What Parquet says of each column of the one group of rows."""
    group = pq.read_metadata(path).row_group(0)
    return [group.column(i).to_dict() for i in range(group.num_columns)]


@pytest.mark.parametrize("damage", [*slowly("truncated", "empty"), "bit-flipped"])
def test_fault_08_a_run_whose_file_is_damaged_is_trained_again_and_the_others_are_left(
    trained, scalectl, tmp_path, damage
):
    folder = shutil.copytree(trained, tmp_path / "copy")
    path, *others = sorted((folder / "results/runs").glob("*.parquet"))
    before = {other: other.stat().st_mtime_ns for other in others}
    content = bytearray(path.read_bytes())
    chunk = next(held for held in columns(path) if held["path_in_schema"] == "value")
    begin = chunk["dictionary_page_offset"] or chunk["data_page_offset"]
    content[begin + chunk["total_compressed_size"] - 1] ^= 1  # of a loss: elsewhere a bit may say nothing
    path.write_bytes({"truncated": content[:500], "empty": b"", "bit-flipped": bytes(content)}[damage])
    done = scalectl("sweep", "tiny.toml", cwd=folder)
    assert f"warning: {path.name} is damaged" in done.stderr
    assert "Finished: 6 done." in done.stdout
    assert {other: other.stat().st_mtime_ns for other in others} == before
    pd.testing.assert_frame_equal(rows_of(folder), rows_of(trained), check_exact=True)
    found = scalectl("doctor", "--mend", cwd=folder).stdout
    assert "1 damaged file whose run has a good one again: mended" in found
    assert not list((folder / "results/quarantine").iterdir())
    assert "damaged" not in scalectl("doctor", cwd=folder).stdout


@pytest.mark.parametrize("damage", ["plan.parquet cut", *slowly("plan.parquet gone", "sweep.toml gone")])
def test_fault_08_a_damaged_plan_is_named_by_every_reader_and_the_next_sweep_writes_it_again(
    trained, scalectl, tmp_path, damage
):
    folder = shutil.copytree(trained, tmp_path / "copy")
    file, what = damage.split()
    path = folder / "results/sweeps/tiny" / file
    os.truncate(path, 300) if what == "cut" else path.unlink()
    for reader in (["status"], ["fit", "tiny"], ["plan", "tiny.toml"], ["clean", "tiny"]):
        error = scalectl(*reader, cwd=folder, code=5).stderr
        assert "error: the plan of sweep tiny is damaged" in error
        assert "scalectl sweep FILE" in error
    assert "✘ damage    the plan of sweep tiny is damaged" in scalectl("doctor", cwd=folder, code=5).stdout
    cleaned = scalectl("clean", cwd=folder)
    assert "warning: the plan of sweep tiny is damaged" in cleaned.stderr
    done = scalectl("sweep", "tiny.toml", cwd=folder)
    assert "warning: the plan of sweep tiny is damaged" in done.stderr
    assert "Nothing to do: 6/6 done." in done.stdout
    assert (folder / "results/quarantine/tiny.plan").exists() is (what == "cut")
    scalectl("doctor", cwd=folder)
    assert json.loads(scalectl("status", "tiny", "--json", cwd=folder).stdout)["counts"] == {"done": 6}
    assert "warning" not in scalectl("sweep", "tiny.toml", cwd=folder).stderr


def test_fault_09_rows_torn_in_the_middle_of_a_write_leave_whole_lines_and_unique_steps(lab, monkeypatch, tmp_path):
    run = lab.run(steps=30)
    monkeypatch.setenv("SCALECTL_FAULT", f"worker.rows=kill@{tmp_path / 'once'}")
    lab.driven(lab.job(run), policy=Policy(retries=0))
    assert lab.state(run) == "lost"
    flight = live(lab.store, run.run_id)
    assert not flight.rows_file.read_bytes().endswith(b"\n")
    notes = flight.rows()[1]
    assert [note for note in notes if "torn" in note] == list(notes)
    assert len(notes) == 1
    lab.driven(lab.job(run, checkpoint_seconds=0.0))
    keys = [(row.step, row.split, row.metric) for row in lab.rows(run)]
    assert len(keys) == len(set(keys))
    assert {row.step for row in lab.rows(run)} == {10, 20, 30}
    other = lab.beside("quiet")
    other.driven(other.job(run))
    assert [row._replace(seconds=0) for row in lab.rows(run)] == [row._replace(seconds=0) for row in other.rows(run)]


@mounts
def test_fault_16_a_store_that_is_read_only_is_refused_in_one_line_and_still_read(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    (folder / "tiny.toml").write_text(SWEEP.replace("[8, 16, 32]", "[8, 16, 32, 24]"))
    script = (
        'mount --bind results results && mount -o remount,ro,bind results\n$S sweep tiny.toml 2>err; echo "sweep: $?"\n'
    )
    for verb in ("status", "fit tiny", "report tiny"):
        script += f'$S {verb} >/dev/null 2>&1; echo "{verb.split()[0]}: $?"\n'
    said, out, _ = in_namespace(script, folder)
    errors = (folder / "err").read_text().splitlines()
    assert said == {"sweep": "5", "status": "0", "fit": "0", "report": "0"}, out
    assert errors[0].startswith("error: ")
    assert "read-only" in errors[0]
    assert len([line for line in errors if not line.startswith("    ")]) == 3  # a long path folds the second


OTHERS = """
mount --bind results results && mount -o remount,ro,bind results
$S doctor --mend >out 2>err; echo "mend: $?"
"""


@mounts
def test_fault_16_what_cannot_be_mended_is_said_in_one_line(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    dead = {"host": host_identity(), "pid": 0, "started": 1, "token": "a", "heartbeat": 0}
    (folder / "results/sweeps/tiny/keeper.a").write_text(json.dumps(dead))
    said, _, _ = in_namespace(OTHERS, folder)
    assert said["mend"] == "5"
    assert (folder / "err").read_text().startswith("error: keeper.a cannot be written: the store is read-only here")


# Root may read everything, but for these.
POWERS = "-dac_override,-dac_read_search"
SHUT_OUT = ["setpriv", f"--bounding-set={POWERS}", f"--inh-caps={POWERS}"] if os.geteuid() == 0 else []


@pytest.mark.skipif(bool(SHUT_OUT) and shutil.which("setpriv") is None, reason="root needs setpriv to be shut out")
@pytest.mark.parametrize("closed", ["live", *slowly("sweeps")])
def test_fault_16_what_another_user_keeps_to_himself_is_said_in_three_lines(trained, tmp_path, closed):
    folder = shutil.copytree(trained, tmp_path / "copy")
    results = folder / "results"
    run_id = min((results / "runs").glob("*.parquet")).stem
    (results / "runs" / f"{run_id}.parquet").unlink()
    (results / "live" / run_id).mkdir()
    shut = results / "live" / run_id if closed == "live" else results / "sweeps/tiny"
    shut.chmod(0)
    try:
        for verb in (
            ["status"],
            ["plan", "tiny.toml"],
            ["sweep", "tiny.toml"],
            ["logs", run_id],
            ["stop"],
            ["doctor"],
            ["clean"],
        ):
            if closed == "sweeps" and verb[0] == "logs":
                continue
            process = started(folder, *verb, prefix=SHUT_OUT)
            out, err = process.communicate(timeout=60)
            assert process.returncode == (0 if verb == ["clean"] else 5), out + err
            told = out if verb == ["doctor"] else err
            assert str(shut) in "".join(told.split()), out + err  # however it was broken into lines
            assert "Traceback" not in err
            assert len([line for line in err.splitlines() if not line.startswith("    ")]) <= 3
        process = started(folder, "-vv", "status", prefix=SHUT_OUT)
        assert "Traceback" in process.communicate(timeout=60)[1]
    finally:
        shut.chmod(0o755)


def test_fault_16_a_results_folder_that_is_removed_ends_the_sweep_with_an_error(tmp_path):
    (tmp_path / "tiny.toml").write_text(one_run(100_000))
    sweep = started(tmp_path, "sweep", "tiny.toml")
    try:
        wait_until(lambda: list(tmp_path.glob("results/live/*/rows.jsonl")), sweep)
        os.rename(tmp_path / "results", tmp_path / "gone")
        shutil.rmtree(tmp_path / "gone")
        _, err = sweep.communicate(timeout=60)
    finally:
        ended(sweep)
    assert sweep.returncode == 5, err
    assert "error: " in err
    assert "cannot be written" in err or "the folder of the runs in flight is gone" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_fault_16_without_a_home_everything_works(tmp_path):
    (tmp_path / "tiny.toml").write_text(one_run(20))
    bare = {name: value for name, value in environment().items() if name not in ("HOME", "SCALECTL_CACHE")}
    for arguments in (["sweep", "tiny.toml"], ["status"], ["doctor"]):
        done = subprocess.run(
            [sys.executable, "-m", "scalectl.cli", *arguments],
            cwd=tmp_path, env=bare, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_fault_07_a_log_on_a_full_device_never_stops_a_run(lab):
    run = lab.run(steps=20)
    folder = live(lab.store, run.run_id)
    folder.folder.mkdir()
    folder.log.touch()
    os.truncate(folder.log, 200 << 20)  # a hole, beyond what files may have: EFBIG is a full disk
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 20, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"), folder.log.open("a") as log:
            log.write("no room")
        lab.driven(lab.job(run))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert lab.state(run) == "done"

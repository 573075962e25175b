"""What all tests share: golden files, rewritten with --update-golden and then read by a person; the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SWEEP, environment

# variables of the environment that are read by a command, not by Python as it starts
SEEN_LATER = {"COLUMNS", "LINES", "NO_COLOR", "HOME"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing with them")


def pytest_configure() -> None:
    """Beside other processes of pytest, each has a core: a sweep that a test starts then has one worker, not one a core
    (a worker's start costs more than most of what tests train), and nobody's threads wait for each other."""
    beside = os.environ.get("PYTEST_XDIST_WORKER")
    if beside and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(beside.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file goes to a worker first: last, it had one core work for a minute and the other wait."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is kept in, or known from, the user's own cache; what a test starts inherits this one."""
    os.environ["SCALECTL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)` compares text with the file golden/NAME beside the test."""
    folder = Path(str(request.path)).parent / "golden"

    def compare(name: str, text: str) -> None:
        path = folder / name
        if request.config.getoption("--update-golden"):
            folder.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        assert path.exists(), f"{path} is missing; write it with pytest --update-golden and read it"
        assert text == path.read_text(encoding="utf-8"), f"{name} changed; if that is right: pytest --update-golden"

    return compare


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """Runs a command in a fork of a process that has imported what it needs, in a fraction of the time."""
    zygote = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "zygote.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = [tmp_path_factory.mktemp("said") / name for name in ("out", "err")]

    def run(argv, cwd, env, timeout):
        names = dict(zip(("out", "err"), map(str, said), strict=True))
        request = {"argv": argv, "cwd": str(cwd), "env": env, "timeout": timeout, **names}
        print(json.dumps(request), file=zygote.stdin, flush=True)
        code = json.loads(zygote.stdout.readline())
        if code is None:
            raise subprocess.TimeoutExpired(argv, timeout)
        return subprocess.CompletedProcess(argv, code, *(path.read_text(encoding="utf-8") for path in said))

    yield run
    zygote.stdin.close()
    zygote.wait(10)
    zygote.stdout.close()


@pytest.fixture(scope="session")
def scalectl(forked):
    """Runs the command line in a folder; returns the finished process with its output as text. What trains, and what
    Python itself has to know of, is a process of its own."""

    def run(*arguments, cwd, code=0, timeout=400, **more):
        argv = [*map(str, arguments)]
        if argv[:1] != ["sweep"] and all(key.startswith("SCALECTL_") or key in SEEN_LATER for key in more):
            done = forked(argv, cwd, environment(**more), timeout)
        else:
            done = subprocess.run(
                [sys.executable, "-m", "scalectl.cli", *argv],
                cwd=cwd,
                env=environment(**more),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        assert code is None or done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, scalectl):
    """A folder with tiny.toml and the results of its sweep; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(SWEEP)
    scalectl("sweep", "tiny.toml", cwd=folder)
    return folder

"""What all tests share: golden files, rewritten with --update-golden and then read by a person; the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import SWEEP, environment


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files instead of comparing with them")


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
def scalectl():
    """Runs the command line in a folder; returns the finished process with its output as text."""

    def run(*arguments, cwd, code=0, timeout=400, **more):
        done = subprocess.run(
            [sys.executable, "-m", "scalectl.cli", *map(str, arguments)],
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

"""The command line as a user runs it: real processes, a tiny sweep on the language of known entropy."""

import subprocess
import sys

import pytest
from support import SWEEP, environment


@pytest.fixture(scope="session")
def scalectl():
    """Runs the command line in a folder; returns the finished process with its output as text."""

    def run(*arguments, cwd, code=0, timeout=120, **more):
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

"""A process that has imported what commands import, and forks for each one that it is asked for.

A request is a line of JSON with argv, cwd, env, the files for out and err, and timeout [s]; the answer is the exit
code, or null where the time ran out.
"""

import atexit
import importlib
import json
import os
import pkgutil
import sys
import time
import traceback

import pandas  # noqa: F401

from scalectl import commands
from scalectl.cli import main

for module in pkgutil.iter_modules(commands.__path__, "scalectl.commands."):
    importlib.import_module(module.name)
assert "torch" not in sys.modules  # its threads would not outlive a fork


def command(request):
    """Become the command; returns its exit code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["scalectl", *request["argv"]]
    sys.path[0] = request["cwd"]
    try:
        main()
        code = 0
    except SystemExit as done:
        code = done.code or 0
    except BaseException:  # noqa: BLE001 - whatever it is, the test is told
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def answer(request):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = command(request)
        finally:
            os._exit(code)
    deadline = time.monotonic() + request["timeout"]
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)

"""What a plan asks about somebody's own model. Torch-free: the code is imported by a process of its own (examine.py).

The contract, all of it: NAME is called with the other keys of [model] as keyword arguments, and with `vocab` and
`context` if it has arguments of these names; it returns a `torch.nn.Module` whose forward takes token indices of shape
(B, T) and returns logits of shape (B, T, vocab).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict
from pathlib import Path
from typing import IO, Any, Literal

from scalectl.core.cost import Ledger, ledger_of_record
from scalectl.core.errors import UsageError
from scalectl.core.names import escaped
from scalectl.core.run import free_options

NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
VERSION = 1  # of the contract above
FORWARD = "scalectl.models.foreign.forward"
GIVEN = ("vocab", "context")  # arguments that scalectl fills in
RESERVED = ("family", "fingerprint")  # columns of its own


def is_foreign(family: object) -> bool:
    """Whether a family names somebody's own model."""
    return isinstance(family, str) and ":" in family


class Examiner:
    """A process that imports somebody's models and answers questions about them; it starts with the first question.

    Args: folders: searched for modules before everything else, in this order.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self.folders = tuple(folders)
        self.process: subprocess.Popen[str] | None = None
        self.errors: IO[bytes] | None = None

    def describe(self, name: str) -> tuple[type[Any], str]:
        """The options that a model takes, context and vocab included, and the fingerprint of its source.

        Raises: UsageError that says what is wrong with the name, the module or the signature.
        """
        if not NAME.fullmatch(name):
            raise UsageError(f"{escaped(name)} names no model", remedy="write package.module:NAME")
        answer = self._ask({"do": "describe", "name": name})
        fields: dict[str, tuple[Any, Any]] = dict.fromkeys(GIVEN, (int, MISSING))
        for key, kind, default in answer["arguments"]:
            fields[key] = (_type(kind), MISSING if default is None else default[0])
        return free_options(fields), fingerprint(name, self.folders)

    def measure(self, name: str, options: Any) -> Ledger:
        """What the model holds and costs with these options.

        Raises: UsageError if it cannot be built, or breaks the contract.
        """
        return ledger_of_record(self._ask({"do": "measure", "name": name, "options": asdict(options)}))

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout, self.errors):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self.process.terminate()
            self.process.wait()
            self.process = None

    def _ask(self, question: Mapping[str, Any]) -> Any:
        if self.process is None:
            self.errors = tempfile.TemporaryFile()  # noqa: SIM115 closed with the process
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scalectl.models.foreign.examine", *self.folders],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: the empty answer says so
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise UsageError(f"the process that looks at {question['name']} died: {self._last_words()}")
        answer = json.loads(line)
        if "what" in answer:
            raise UsageError(answer["what"], remedy=answer["remedy"])
        return answer["found"]

    def _last_words(self) -> str:
        assert self.errors is not None
        self.errors.seek(0)
        said = self.errors.read().decode(errors="replace").strip().splitlines()
        return escaped(said[-1], 200) if said else "it said nothing"


def _type(kind: Any) -> Any:
    """The type of an option: a name, or the list of its choices; `?` behind the name allows None."""
    if isinstance(kind, list):
        return Literal[tuple(kind)]
    plain: Any = {"int": int, "float": float, "bool": bool, "str": str}[kind.rstrip("?")]
    return plain | None if kind.endswith("?") else plain


def fingerprint(name: str, folders: Sequence[str]) -> str:
    """Digest of the source that defines a model: its module and what that imports of the same package and folders.

    Read from the files, without running them, so that it is the same in every process; whole files, so that an edited
    comment is a new model too. Code of other installed packages is not covered.
    Raises: UsageError if the module has no source.
    """
    module = name.partition(":")[0]
    find = functools.partial(_file, folders=tuple(folders), package=_installed(module.partition(".")[0]))
    seen: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        module = waiting.pop()
        path = find(module)
        if path is None or module in seen:
            continue
        source = path.read_bytes().replace(b"\r\n", b"\n")
        seen[module] = source
        parts = module.split(".")
        waiting += [".".join(parts[:end]) for end in range(1, len(parts))]
        waiting += _imports(source, parts if path.name == "__init__.py" else parts[:-1])
    if not seen:
        raise UsageError(f"{escaped(name)} has no Python source", remedy="its digest is part of a run's identity")
    digest = hashlib.sha256()
    for module, source in sorted(seen.items()):
        digest.update(f"{module} {len(source)}\n".encode() + source)
    return f"sha256:{digest.hexdigest()}"


def _installed(top: str) -> tuple[str, Path] | None:
    """A package or module that is installed, and the folder that holds it."""
    found = importlib.util.find_spec(top)
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return None
    path = Path(found.origin)
    return top, path.parent.parent if path.name == "__init__.py" else path.parent


def _file(module: str, folders: Sequence[str], package: tuple[str, Path] | None) -> Path | None:
    top = module.partition(".")[0]
    if top == "scalectl":
        return None
    roots = [*map(Path, folders), *([package[1]] if package is not None and package[0] == top else [])]
    for root in roots:
        base = root.joinpath(*module.split("."))
        for path in (base / "__init__.py", base.with_name(base.name + ".py")):
            if path.is_file():
                return path
    return None


def _imports(source: bytes, package: list[str]) -> Iterator[str]:
    """Every module that a source may import, by its full name; none if it is no Python, and then never imported."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # ValueError: null bytes
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)

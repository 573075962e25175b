"""The table of faults is complete, and names tests that there are."""

import ast
import re
from pathlib import Path

from support import REPOSITORY

FAULTS = 23
HERE = Path(__file__).parent


def table():
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| (.*) \|$", (HERE / "README.md").read_text(), re.MULTILINE)
    return {int(number): re.findall(r"`([^`]+)`", tests) for number, tests in rows}


def functions(path):
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_fault_has_a_test():
    assert list(table()) == list(range(1, FAULTS + 1))
    assert all(table().values())


def test_every_test_of_the_table_is_there():
    named = {test for tests in table().values() for test in tests}
    for file in {test.partition("::")[0] for test in named}:
        missing = {test.partition("::")[2] for test in named if test.startswith(f"{file}::")} - functions(
            REPOSITORY / file
        )
        assert not missing, f"{file} has no {missing}"


def test_every_test_of_a_fault_is_in_the_table_under_its_number():
    for path in HERE.glob("test_*.py"):
        for name in functions(path):
            number = re.match(r"test_fault_(\d\d)_", name)
            if number:
                assert f"tests/faults/{path.name}::{name}" in table()[int(number[1])]

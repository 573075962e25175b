"""Figures of a benchmark: a table on the terminal, and JSON with machine and versions in bench/results/."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def record(name: str, rows: list[dict[str, Any]]) -> None:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    about = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu,
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("scalectl", "torch", "numpy")},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("command", "model") else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)

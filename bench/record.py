"""Figures of a benchmark: tables on the terminal, and JSON and Markdown with machine and versions in bench/results/."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
WORDS = ("command", "model", "contender", "ratio of", "shape", "setting", "component")  # columns of text


@dataclass(frozen=True)
class Section:
    """One table. key: in the JSON; rows: as shown; data: what the JSON holds instead, where that is more."""

    key: str
    title: str
    rows: Sequence[dict[str, Any]]
    data: Any = None


def about(*packages: str) -> dict[str, Any]:
    """Machine and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: importlib.metadata.version(package) for package in ("scalectl", "torch", "numpy", *packages)},
    }


def record(
    name: str, sections: Sequence[Section], packages: Sequence[str] = (), folder: Path = RESULTS, notes: str = ""
) -> None:
    """Show the tables, and keep them as NAME.json and NAME.md. packages: whose versions matter beside ours."""
    machine = about(*packages)
    for section in sections:
        show(section.title, section.rows)
    tables = {section.key: section.rows if section.data is None else section.data for section in sections}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"about": machine, **tables}, indent=1) + "\n")
    text = [f"# {name}", ", ".join(f"{key} {value}" for key, value in machine.items()), *([notes] if notes else [])]
    text += [part for section in sections for part in (f"## {section.title}", markdown(section.rows))]
    (folder / f"{name}.md").write_text("\n\n".join(text) + "\n")


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    ruled = ["---" if name in WORDS else "---:" for name in rows[0]]
    lines = [list(rows[0]), ruled, *(map(str, row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Rows as a table on the terminal."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if name in WORDS else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)

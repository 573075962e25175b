"""The members that a sweep file names: its families, optimisers and tasks, one's own models among them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from scalectl.core.errors import UsageError
from scalectl.core.names import did_you_mean, meant, shown
from scalectl.models import MODELS, Model, foreign_model
from scalectl.models.foreign.spec import Examiner, is_foreign
from scalectl.sweep.draft import Draft, Entry
from scalectl.tasks import TASKS, TaskMember


class Members:
    """Finds members by what the file says. Own models are looked at by a process of their own, until `close`."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.examiner = Examiner(tuple(dict.fromkeys((draft.folder, os.getcwd()))))
        self.foreign: dict[str, Model | UsageError] = {}

    def close(self) -> None:
        """End the process that looks at own models."""
        self.examiner.close()

    @property
    def search(self) -> tuple[str, ...]:
        """Folders in which own models were found; () without any."""
        return self.examiner.folders if self.foreign else ()

    def models(self, entry: Entry | None) -> Mapping[str, Model]:
        """The families, and the user's own model that the entry names, if it is one."""
        if entry is None or not is_foreign(entry.raw):
            return MODELS
        name = str(entry.raw)
        if name not in self.foreign:
            try:
                self.foreign[name] = foreign_model(name, self.examiner)
            except UsageError as error:
                self.foreign[name] = error
        found = self.foreign[name]
        if isinstance(found, UsageError):
            self.draft.problem(entry.path, f"model.family: {found.what}", found.remedy)
            return MODELS
        return {**MODELS, name: found}

    def member(self, entry: Entry | None, key: str, members: Mapping[str, Any], default: str | None) -> Any:
        """The member that an entry names, `default` without one, None where it names none that is known."""
        if entry is None:
            if default is None and not self.draft.broken:
                self.draft.problem((key.split(".")[0],), f"{key} is missing", f"known: {', '.join(members)}", key=True)
                return None
            return members[default or next(iter(members))]
        if isinstance(entry.raw, dict):
            what = f"{key} cannot be varied inside one grid"
            self.draft.problem(entry.path, what, "give each a [[block]] of its own")
        elif isinstance(self.foreign.get(str(entry.raw)), UsageError):
            pass  # `models` has said why
        elif not isinstance(entry.raw, str) or entry.raw not in members:
            word = entry.raw if isinstance(entry.raw, str) else ""
            self.draft.problem(entry.path, f"{key}: {shown(entry.raw)} is not known", did_you_mean(word, members))
        else:
            return members[entry.raw]
        return None

    def given(self, model: Model, source: Entry | None) -> tuple[str, ...]:
        """Keys of [model] that are not the file's to give, because data from here give them."""
        raw = None if source is None else source.raw
        named = [raw] if isinstance(raw, str) else list(_texts(raw))
        asks = any(task.kind == "problems" and task.accepts(text) for task in TASKS.values() for text in named)
        return (*model.given, "context") if asks else model.given

    def task(self, entry: Entry | None) -> TaskMember | None:
        """The task that answers to data.source; all sources of one grid belong to one task."""
        raw = "stdlib" if entry is None else entry.raw
        sources = [(raw, entry.path if entry else ())]
        if isinstance(raw, dict) and entry is not None:
            axis = next((word for word in ("grid", "zip") if isinstance(raw.get(word), list)), None)
            if axis is None:
                what = f"data.source: {shown(raw)} is not a source"
                self.draft.problem(entry.path, what, "a text, or { grid = [...] }")
                return None
            sources = [(item, (*entry.path, axis, i)) for i, item in enumerate(raw[axis])]
        found: list[TaskMember] = []
        for source, path in sources:
            answers = [t for t in TASKS.values() if isinstance(source, str) and t.accepts(source)]
            if not answers:
                known = ", ".join(t.sources for t in TASKS.values())
                words = [word.strip() for word in known.split(",") if ":" not in word]
                guess = meant(source, words) if isinstance(source, str) else None
                remedy = f"did you mean {guess}?" if guess else f"known: {known}"
                self.draft.problem(path, f"data.source: {shown(source)} is not a source", remedy)
                return None
            found.append(answers[0])
        if len({t.name for t in found}) > 1:
            self.draft.problem(
                sources[0][1], "data.source: these belong to different tasks", "give each a [[block]] of its own"
            )
            return None
        return found[0] if found else None


def _texts(raw: Any) -> Iterator[str]:
    """The texts of an axis."""
    for held in raw.values() if isinstance(raw, dict) else ():
        yield from (item for item in held if isinstance(item, str)) if isinstance(held, list) else ()

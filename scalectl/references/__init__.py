"""Published tables to fit with `ref:NAME`: one file each, one line in the table below."""

from __future__ import annotations

from scalectl.references.bigbench_lite import BIGBENCH_LITE
from scalectl.references.epoch_chinchilla import EPOCH_CHINCHILLA
from scalectl.references.gadre_overtraining import GADRE_OVERTRAINING
from scalectl.references.gemstones import GEMSTONES
from scalectl.references.porian_discrepancies import PORIAN_DISCREPANCIES
from scalectl.references.reference import Published, PublishedExponent, Reference, Table, fetch, folder

REFERENCES: dict[str, Reference] = {
    held.name: held for held in (EPOCH_CHINCHILLA, GEMSTONES, GADRE_OVERTRAINING, PORIAN_DISCREPANCIES, BIGBENCH_LITE)
}

__all__ = ["REFERENCES", "Published", "PublishedExponent", "Reference", "Table", "fetch", "folder"]

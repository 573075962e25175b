"""What a sweep file says of a Ray cluster ([ray]), and what its values may look like."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}"
_HOST = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:]{2,45}\]"
_OWN = "CPU|GPU|memory|object_store_memory"  # resources with keys of their own, or none that a pilot asks for
_RESOURCE = rf"(?P<name>(?!(?:{_OWN})(?:=|$)){_NAME})(?:=(?P<amount>[1-9]\d{{0,8}}))?"

# A key: what its value has to match, and what that is, before the comma as a noun.
FORMS = {
    "address": (rf"auto|(?:{_HOST}):\d{{1,5}}", 'the address of a cluster, "auto" or HOST:PORT of its head'),
    "memory": (r"[1-9]\d{0,8}[KMGT]?", 'an amount of memory, such as "16G"'),
}
RESOURCE = (_RESOURCE, 'a resource of the cluster, such as "a100" or "a100=2"; cpus, gpus and memory are keys of [ray]')


@dataclass(frozen=True)
class Ray:
    """What a pilot on a cluster is asked to be, each with the resources of a pack unless more is said.

    address: of the cluster, "auto" for that of RAY_ADDRESS or the one that this machine is a node of; cpus: of a pilot,
    None for a core for each slot; gpus: likewise, a slot each; memory: of a pilot, None to ask for none; resources:
    further ones, as its nodes name them; pilots: at most, else as many as the cluster has room for.
    """

    address: str = "auto"
    cpus: int | None = None
    gpus: int = 0
    memory: str | None = None
    resources: tuple[str, ...] = ()
    pilots: int = 100  # ours, as many as jobs of Slurm

    @property
    def bytes(self) -> int | None:
        """Memory of a pilot [bytes]; as in Slurm a number alone counts MiB."""
        if self.memory is None:
            return None
        number, unit = self.memory.rstrip("KMGT"), self.memory[-1]
        return int(number) << 10 * (1 + "KMGT".index(unit if unit in "KMGT" else "M"))

    @property
    def amounts(self) -> dict[str, int]:
        """Further resources of a pilot by name."""
        found = (re.fullmatch(_RESOURCE, text) for text in self.resources)
        return {held["name"]: int(held["amount"] or 1) for held in found if held is not None}

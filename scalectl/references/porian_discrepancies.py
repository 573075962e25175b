"""Fifteen isoFLOP sweeps between Kaplan's exponent and Chinchilla's (Porian et al. 2024, arXiv 2406.19146).

Their exponents: minima of Akima interpolants, then a regression weighted by bootstrapped noise.
"""

from __future__ import annotations

from scalectl.references.reference import PublishedExponent, Reference, Table

# config_id, what it changes, exponent and its 95 % interval
_EXPONENTS = (
    ("main_0", "Kaplan et al. reproduced", 0.835, (0.824, 0.846)),
    ("main_1", "+ FLOPs of the last layer", 0.706, (0.691, 0.717)),
    ("main_2", "+ short warmup", 0.602, (0.591, 0.617)),
    ("main_3", "+ cosine decay to the horizon", 0.571, (0.56, 0.589)),
    ("main_4", "tuned per size, no decay", 0.497, (0.491, 0.505)),
    ("main_owt2_0", "the same on OpenWebText2", 0.864, (0.819, 0.897)),
    ("main_owt2_1", "+ FLOPs of the last layer", 0.699, (0.664, 0.724)),
    ("main_owt2_2", "+ short warmup", 0.603, (0.57, 0.629)),
    ("main_owt2_3", "+ cosine decay to the horizon", 0.574, (0.542, 0.606)),
    ("main_owt2_4", "tuned per size, no decay", 0.518, (0.493, 0.541)),
    ("main_att_0", "attention counted", 0.717, (0.703, 0.727)),
    ("main_att_1", "+ short warmup", 0.622, (0.607, 0.632)),
    ("main_att_2", "+ cosine decay to the horizon", 0.577, (0.562, 0.592)),
    ("main_att_3", "tuned per size, no decay", 0.505, (0.496, 0.512)),
    ("main_kaplan_tuned_hparams_0", "tuned, long warmup, no last layer", 0.711, (0.703, 0.721)),
)

PORIAN_DISCREPANCIES = Reference(
    name="porian-discrepancies",
    title="1745 isoFLOP points of 15 sweeps, from Kaplan's exponent to Chinchilla's",
    cite=("Porian et al. 2024, arXiv 2406.19146",),
    origin="github.com/formll/resolving-scaling-law-discrepancies @ 0dc60d91b8a525858a3067fc9e4a46ff5374cc6f",
    licence="MIT",
    tables={
        "isoflop": Table(
            file="porian_discrepancies/isoflop_points.csv",
            sha256="a7b895bc91d8608517f88d734b10a5761b7be77a2e54e45f0cdbb9207b0200d4",
            url=None,
            made="there are data/summary_df*.pickle.xz, pickles, which can run code when they are opened",
            columns={"D": "tokens", "C": "flops", "L": "loss"},
            counts={None: "params"},
            count_by=("param_count", {"kaplan": "non_embedding", "standard": "matmul"}),
            apart="config_id",
            note="losses are interpolated at equal FLOPs: --approach 2 reads them as they were meant",
            exponents=tuple(
                PublishedExponent(
                    f"Porian et al. 2024, {what}", 2, a, interval, where=f"config_id == '{config}'", interpolated=True
                )
                for config, what, a, interval in _EXPONENTS
            ),
        )
    },
)

"""104 over-trained models on three corpora (Gadre et al. 2024, arXiv 2403.08540).

Their law has one exponent for N and D, is fitted to five small models per corpus by least squares on the loss, and
predicts the large ones: 1.4 B parameters at 640 tokens each within .7103 %, 6.9 B at 20 within .7320 % (RedPajama).
"""

from __future__ import annotations

from scalectl.references.reference import Reference, Table

GADRE_OVERTRAINING = Reference(
    name="gadre-overtraining",
    title="104 models on C4, RedPajama and RefinedWeb, up to 640 tokens per parameter",
    cite=("Gadre et al. 2024, arXiv 2403.08540",),
    origin="github.com/mlfoundations/scaling @ a003c4913793ac2ae7ef87b28ecb562955d026d5",
    licence="MIT",
    tables={
        "models": Table(
            file="gadre_overtraining/models.csv",
            sha256="6e60b468257ae3e57b88b81776982603c57e20ccdf873a28037ca7e2aedad815",
            url=None,
            made="there are exp_data/models/*.json and exp_data/evals/*.json, one of each per model",
            columns={"D": "tokens", "L": "loss_c4_val"},
            counts={"total": "params", "non_embedding": "params_no_embed"},
            apart="dataset",
            note="the paper fits five models per corpus, with one exponent: --where 'paper_fit_loss == 1' "
            "--objective mse --tie alpha=beta --convention total",
        )
    },
)

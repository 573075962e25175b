"""24 tasks of BIG-bench Lite over model families (Srivastava et al. 2022, arXiv 2206.04615), at the highest shot count.

Where Wei et al. 2022 (arXiv 2206.07682, appendix E) list a task, `wei2022_emerges_at` says from which model on. Item
counts are inferred, as the smallest denominator that makes every score of a task and family a fraction.
"""

from __future__ import annotations

from scalectl.references.reference import Reference, Table

BIGBENCH_LITE = Reference(
    name="bigbench-lite",
    title="24 tasks of BIG-bench Lite, ten model families",
    cite=("Srivastava et al. 2022, arXiv 2206.04615", "Wei et al. 2022, arXiv 2206.07682"),
    origin="github.com/smolix/benchmark-selection @ f339e73fead83337dba21ab78518df3e1fd40a05",
    licence="Apache-2.0",
    tables={
        "scores": Table(
            file="bigbench_lite/bigbench_lite_long.csv",
            sha256="156cfc30c09cc68709c9c0aa9a00f3211d9ac529a03dacfa6cbb5769ff6e4b00",
            url=None,
            made="there is data/bigbench.csv, one row per model and task",
            columns={"S": "score"},
            counts={None: "n_params_nominal"},
            holds="scores",
            note="item counts are inferred from the scores; sizes are nominal, and one training run each",
        )
    },
)

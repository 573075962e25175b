"""The runs of Hoffmann et al. 2022 (arXiv 2203.15556), figure 4, as Besiroglu et al. 2024 (arXiv 2404.10102) read them.

The repository of the latter states no licence; the byte-identical file that is fetched here is redistributed under MIT.
"""

from __future__ import annotations

from scalectl.references.reference import Published, PublishedExponent, Reference, Table

WITHOUT_FIVE = "L < 3.446"  # the paper's subset: the five highest losses dropped; the fifth highest is 3.44700

_EPOCH = {"A": "482.01", "B": "2085.43", "E": "1.8172", "alpha": "0.3478", "beta": "0.3658"}
_NOTEBOOK = {"A": "482.006", "B": "2085.434", "E": "1.81686", "alpha": "0.34781", "beta": "0.36585"}
_HOFFMANN = {"A": "406.4", "B": "410.7", "E": "1.69", "alpha": "0.34", "beta": "0.28"}

EPOCH_CHINCHILLA = Reference(
    name="epoch-chinchilla",
    title="Chinchilla's 245 runs, read off its figure 4",
    cite=("Hoffmann et al. 2022, arXiv 2203.15556", "Besiroglu et al. 2024, arXiv 2404.10102"),
    origin="github.com/epoch-research/analyzing-chinchilla @ 92258837425e1b5f2851d624287f0120583a3d0e, "
    "byte-identical in github.com/mcleish7/gemstone-scaling-laws @ 5f420478f6057b0cbb4d13405fb10ca64675bccb",
    licence="MIT, of the copy that is fetched",
    tables={
        "runs": Table(
            file="epoch_chinchilla/svg_extracted_data.csv",
            sha256="193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30",
            url="https://raw.githubusercontent.com/mcleish7/gemstone-scaling-laws/"
            "5f420478f6057b0cbb4d13405fb10ca64675bccb/data/epoch_chinchilla_svg_extracted_data.csv",
            columns={"C": "Training FLOP", "L": "loss"},
            counts={"total": "`Model Size`"},
            note=f"the paper leaves out the five highest losses; they move B and β most: --where '{WITHOUT_FIVE}'",
            fits=(
                Published("Besiroglu et al. 2024, table", _EPOCH, "huber:1e-3", "total", where=WITHOUT_FIVE),
                # Its cell fits the scale of the Huber density too, which ends at 4.7e-6: absolute values, in effect.
                Published("Besiroglu et al. 2024, notebook", _NOTEBOOK, "lad", "total", where=WITHOUT_FIVE),
                Published("Hoffmann et al. 2022, approach 3", _HOFFMANN, "huber:1e-3", "total", where=WITHOUT_FIVE),
            ),
            exponents=(
                PublishedExponent("Hoffmann et al. 2022, table 2", 1, 0.50, (0.488, 0.502), level=0.8),
                PublishedExponent("Hoffmann et al. 2022, table 2", 2, 0.49, (0.462, 0.534), level=0.8),
                PublishedExponent("Hoffmann et al. 2022, table 2", 3, 0.46, (0.454, 0.455), level=0.8),
                # its standard error is .020
                PublishedExponent("Besiroglu et al. 2024", 3, 0.513, (0.474, 0.552), where=WITHOUT_FIVE),
            ),
        )
    },
)

"""Makes ``docs/demo.html``: the built-in GloVe, compressed, in a page that answers neighbours without a network.

Run it from anywhere, in the environment of ``make setup``: ``python reader/js/demo/make.py``. A fit takes some seconds.
"""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from string import Template

import torch

import quantizers
from analysis import text
from analysis.report.word_view import nearest
from quantizers import Budget, TableStats
from quantizers.files import write_bytes
from trainables.tables import builtin

HERE = Path(__file__).parent
READER = HERE.parent / "embedding-frontier.mjs"
METHOD, RATIO = "trellis", 10.0


def page() -> str:
    """The page's HTML."""
    torch.set_num_threads(1)  # so that the sums have one order
    table = builtin.read("glove-10k-50d")
    (config,) = quantizers.get(METHOD).configs_for(Budget.from_ratio(RATIO, table.shape), TableStats.of(table))
    quantizer = quantizers.get(METHOD)(config).fit(table, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        quantizer.save(path)
        data = path.read_bytes()
    before, after = nearest(table.vectors), nearest(quantizer.to_dense())
    kept = sum(len(set(one) & set(other)) for one, other in zip(before.tolist(), after.tolist(), strict=True)) / before.size
    dense = 4 * table.num_embeddings * table.embedding_dim
    return Template((HERE / "template.html").read_text(encoding="utf-8")).substitute(
        method=METHOD,
        dense=f"{dense / 1000:,.0f} KB",
        payload=f"{quantizer.payload_bytes / 1000:,.0f} KB",
        words=f"{(len(data) - quantizer.payload_bytes) / 1000:,.0f} KB",
        kept=text.share(kept),
        reader=READER.read_text(encoding="utf-8"),
        data=base64.b64encode(data).decode(),
    )


if __name__ == "__main__":
    out = HERE.parents[2] / "docs/demo.html"
    write_bytes(out, page().encode(), "the demo page")

"""The demo page: a compressed GloVe that answers neighbours without a network."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

import quantizers
from quantizers.embedding import CompressedEmbedding

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "docs/demo.html"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> CompressedEmbedding:
    """What the page carries, read by this program."""
    path = tmp_path_factory.mktemp("demo") / "table.safetensors"
    found = re.search(r'<script type="text/plain" id="table">(.*?)</script>', DEMO.read_text())
    assert found
    path.write_bytes(base64.b64decode(found[1]))
    return quantizers.load(path)


def test_the_page_has_the_reader_as_it_is() -> None:
    """Else: python reader/js/demo/make.py."""
    page, folder = DEMO.read_text(), ROOT / "reader/js"
    assert (folder / "embedding-frontier.mjs").read_text() in page
    script = (folder / "demo/template.html").read_text().partition("$reader")[2]
    assert page.endswith(script)


def test_neighbours_offline(table: CompressedEmbedding, page: Page, seen: Any) -> None:
    page.goto(DEMO.as_uri())
    rows, words = torch.nn.functional.normalize(table.to_dense(), dim=1), list(table.words or ())

    def nearest(typed: dict[str, int]) -> list[str]:
        query = sum(sign * rows[words.index(word)] for word, sign in typed.items())
        order = (rows @ query).argsort(descending=True).tolist()
        return [words[one] for one in order if words[one] not in typed][:10]

    def shown() -> list[str]:
        return page.locator("#found li span:first-child").all_inner_texts()

    assert shown() == nearest({"coffee": 1})
    page.fill("#words", "guitar")
    assert shown() == nearest({"guitar": 1})
    page.click("text=king - man + woman")
    assert shown() == nearest({"king": 1, "man": -1, "woman": 1})
    assert "queen" in shown()
    page.locator("#found button").first.click()
    assert page.input_value("#words") == nearest({"king": 1, "man": -1, "woman": 1})[0]
    page.fill("#words", "king + zzqx")
    assert page.locator("#told").inner_text() == "zzqx is not among the 10,000 words."
    assert shown() == []
    # Dark, and narrow.
    page.fill("#words", "paris")
    colour = "() => getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(colour) != light
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("Array.from(document.querySelectorAll('body *')).every((one) => one.scrollWidth <= innerWidth)")
    assert seen.errors == []
    assert seen.requests == [DEMO.as_uri()]

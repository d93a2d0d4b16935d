"""Corpora of any bytes are read, or refused in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from quantizers import InputError
from trainables.corpora import CORPORA

pytestmark = pytest.mark.thorough  # searches long

TREE = "(3 (2 It) (4 (2 's) (4 Good)))\n(2 plain)\n\n(0 (0 Bad) (2 .))\n"
CHUNKS = "He PRP B-NP\nreckons VBZ B-VP\nthe DT B-NP\ndeficit NN I-NP\n. . O\n\n" * 9
PAIR = {"gold_label": "entailment", "sentence1": "A man's dog runs.", "sentence2": "It isn't still."}
REVIEWS = "review,sentiment\n" + '"Good, ""film"".<br />",positive\nBad,negative\n' * 6
TEXTS = {"sst5": TREE, "sst2": TREE, "conll2000": CHUNKS, "snli": f"{json.dumps(PAIR)}\n" * 3, "imdb": REVIEWS}
PLAIN = " no it was n't <unk> black monday \n = Title = \n a second line \n" * 3
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def written(name: str, folder: Path) -> list[Path]:
    """The corpus's files, in the layout that has the fewest."""
    paths = []
    for pattern in min(CORPORA[name].layouts, key=len):
        paths.append(folder / pattern.replace("*", "one"))
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        text = TEXTS.get(name, PLAIN).encode()
        paths[-1].write_bytes(gzip.compress(text) if pattern.endswith(".gz") else text)
    return paths


def check(name: str, folder: Path, data: st.DataObject) -> None:
    paths = written(name, folder)
    place = data.draw(st.sampled_from(paths))
    found = bytearray(place.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(found)))
        more = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"(", b")", b" ", b"\n", b"\r", b'"', b",", b"{", b"\\ud800", b"\xa0"])
        )
        found[at : at + data.draw(st.sampled_from([0, 1, 3, 1000]))] = more
    place.write_bytes(found)
    try:
        splits = CORPORA[name].read(folder)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert len(splits.train) and len(splits.dev) and len(splits.test)


def test_the_texts_are_whole(tmp_path):
    for name in CORPORA:
        written(name, tmp_path / name)
        assert len(CORPORA[name].read(tmp_path / name).train) > 0


@pytest.mark.parametrize("name", CORPORA)
@settings(FUZZ, max_examples=15)
@given(data=st.data())
def test_any_damage_is_a_corpus_or_a_refusal(name, data, tmp_path):
    check(name, tmp_path, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", CORPORA)
@settings(FUZZ, max_examples=1000)
@given(data=st.data())
def test_much_damage_is_a_corpus_or_a_refusal(name, data, tmp_path):
    check(name, tmp_path, data)


def test_what_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("trainables.tables.opening._FLOOR", 1000)
    paths = [tmp_path / "conll2000" / f"{split}.txt.gz" for split in ("train", "test")]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_bytes(gzip.compress(CHUNKS.encode() * 1000))
    with pytest.raises(
        InputError, match=r"train.txt.gz: unpacks to more than [\d,]+ bytes. If that is right, unpack it first"
    ):
        CORPORA["conll2000"].read(tmp_path)


@pytest.mark.parametrize("name", ["ptb", "wikitext2"])
def test_a_text_of_blank_lines_is_refused(name: str, tmp_path: Path) -> None:
    corpus = CORPORA[name]
    for path in corpus.layouts[0]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("one two\n")
    (tmp_path / corpus.layouts[0][2]).write_text("\u2003\n", encoding="utf-8")  # a space, and none of ASCII
    with pytest.raises(InputError, match="holds no words"):
        corpus.read(tmp_path)

"""The parallel corpora: what is read of small files written by hand, and what is said where they are wrong."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU

from quantizers.errors import InputError
from trainables.corpora import CORPORA
from trainables.corpora.parallel import IWSLT14, MULTI30K, detokenize, tokenize
from trainables.published.catalogue import PUBLISHED


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split in ("train", "val", "test_2016_flickr"):
        write(tmp_path / f"multi30k/{split}.de", "Ein Mann schläft.\nZwei Hunde\n")
        write(tmp_path / f"multi30k/{split}.en", "A man's asleep.\n Two dogs \n\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        MULTI30K.read(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_pairs_of_lines(data: Path) -> None:
    splits = MULTI30K.read(data)
    assert splits.train == splits.dev == splits.test and len(splits.train) == 2
    assert splits.train.tokens == (("ein", "mann", "schläft", "."), ("zwei", "hunde"))
    assert splits.train.translations == (("a", "man", "'s", "asleep", "."), ("two", "dogs"))
    assert splits.train.references == ("A man's asleep.", "Two dogs")
    for path in sorted((data / "multi30k").iterdir()):
        (path.with_name(f"{path.name}.gz")).write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert MULTI30K.read(data) == splits
    assert CORPORA["multi30k"] is MULTI30K and CORPORA["iwslt14"] is IWSLT14


def test_tokenized_pairs_fall_at_their_spaces(tmp_path: Path) -> None:
    for name in ("train_9", "valid", "test"):
        write(tmp_path / f"iwslt14/{name}.de", "es geht &apos;s gut , Ja .\n")
        write(tmp_path / f"iwslt14/{name}.en", "it &apos;s t-shirt .\n")
    splits = IWSLT14.read(tmp_path)
    assert splits.train.tokens == (("es", "geht", "&apos;s", "gut", ",", "ja", "."),)
    assert splits.test.translations == (("it", "&apos;s", "t-shirt", "."),)
    assert IWSLT14.detokenize(splits.test.translations[0]) == splits.test.references[0]  # type: ignore[index]
    write(tmp_path / "iwslt14/train.de", "zwei\n")
    with pytest.raises(InputError, match=r"expected two files for each of train, dev and test, found train.de, train_9.de"):
        IWSLT14.read(tmp_path)


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ("A man, in (a) T-shirt; sits - there.", "a man , in ( a ) t @-@ shirt ; sits - there ."),
        ("They can't, and DON\u2019T: it's 9:30 at 10,000 m!", "they ca n't , and do n\u2019t : it 's 9:30 at 10,000 m !"),
        ('He says "no way" twice', 'he says " no way " twice'),
        ("The girls' dog said 'yes'.", "the girls ' dog said ' yes ' ."),
        ("Schöne Grüße, das 3rd Café!", "schöne grüße , das 3rd café !"),
    ],
)
def test_tokens_and_back(sentence: str, tokens: str) -> None:
    assert " ".join(tokenize(sentence)) == tokens
    assert detokenize(tokens.split()) == sentence.lower()


def test_entities_are_what_they_stand_for() -> None:
    assert tokenize("Tom &amp; Jerry &quot;x&quot;") == ("tom", "&", "jerry", '"', "x", '"')


@given(st.text(alphabet="aB s'\"-.,:!?()1\u2019n\u00e9t", max_size=30))
def test_what_was_put_together_falls_into_the_same_tokens(sentence: str) -> None:
    tokens = tokenize(sentence)
    assert all(token and not any(letter.isspace() for letter in token) for token in tokens)
    assert "".join(tokens).replace("@-@", "-") == "".join(sentence.lower().split())
    assert "".join(detokenize(tokens).split()) == "".join(sentence.lower().split())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("val.en", "A man.\n", "val.en: expected 2 lines, as val.de has, found 1: line n is the translation of line n."),
        ("val.en", "\nA man.\n", "val.en:1: expected a sentence, found an empty line."),
        ("train.de", " \n", "train.de: the file is empty."),
    ],
)
def test_wrong_files(data: Path, name: str, text: str, message: str) -> None:
    write(data / "multi30k" / name, text)
    assert refused(data) == f"{data / 'multi30k'}/{message}"


def test_files_that_are_not_there(data: Path) -> None:
    (data / "multi30k/test_2016_flickr.en").unlink()
    message = refused(data)
    assert message.startswith(f"Corpus multi30k: multi30k/test_2016_flickr.en is missing under {data} (read too: ")
    assert f"multi30k/train.de.gz); it comes from {MULTI30K.source}" in message
    assert set(PUBLISHED["multi30k"].files) == set(MULTI30K.layouts[0])
    assert PUBLISHED["multi30k"].licence == MULTI30K.licence


@pytest.mark.skipif("FRONTIER_DATA" not in os.environ, reason="FRONTIER_DATA does not say where the published files are")
def test_complete_corpus_and_references_that_went_there_and_back() -> None:
    splits = MULTI30K.read(Path(os.environ["FRONTIER_DATA"]))
    assert [len(split) for split in (splits.train, splits.dev, splits.test)] == [29_000, 1_014, 1_000]
    assert splits.test.references is not None and splits.test.translations is not None
    texts = [detokenize(tokens) for tokens in splits.test.translations]
    assert BLEU(lowercase=True).corpus_score(texts, [list(splits.test.references)]).score > 99.9

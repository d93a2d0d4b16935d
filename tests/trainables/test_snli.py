"""The corpus SNLI: what is read of small files written by hand, and what is said where they are wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from quantizers.errors import InputError
from trainables.corpora.base import Examples
from trainables.corpora.snli import SNLI, tokenize
from trainables.published.catalogue import PUBLISHED

RAW = [
    {"gold_label": "entailment", "sentence1": "A man's dog runs.", "sentence2": "It doesn't sit!", "pairID": "1"},
    {"gold_label": "-", "sentence1": "A man's dog runs.", "sentence2": "Nobody agrees."},
    {"gold_label": "contradiction", "sentence1": "A man's dog runs.", "sentence2": "..."},
]
TOKENIZED = [{"gold_label": "neutral", "sentence1": "a man 's dog `` runs ''", "sentence2": "it does n't sit"}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for split, rows in (("train", RAW), ("dev", TOKENIZED), ("test", TOKENIZED)):
        write(tmp_path / f"snli/snli_1.0_{split}.jsonl", rows)
    return tmp_path


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pairs(examples: Examples) -> list[tuple[str, str]]:
    assert isinstance(examples, Examples) and examples.hypotheses is not None
    return [(" ".join(first), " ".join(other)) for first, other in zip(examples.tokens, examples.hypotheses, strict=True)]


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        SNLI.read(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_pairs_with_a_label(data: Path) -> None:
    splits = SNLI.read(data)
    assert splits.classes == ("entailment", "neutral", "contradiction")
    assert (splits.train.labels, splits.dev.labels, splits.test.labels) == ((0, 2), (1,), (1,))
    assert pairs(splits.train) == [("a man 's dog runs", "it does n't sit"), ("a man 's dog runs", "")]
    assert pairs(splits.dev) == pairs(splits.test) == pairs(splits.train)[:1]  # raw or tokenized: the same
    assert [len(split) for split in (splits.train, splits.dev, splits.test)] == [2, 1, 1]


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ("A man, in (a) T-shirt; sits\u2014there.", "a man in a t-shirt sits there"),
        ("They can't, cannot and DON'T", "they ca n't can not and do n't"),
        (
            "The girls' mother\u2019s: we've, I'm, he'd, they'll, you're",
            "the girls mother 's we 've i 'm he 'd they 'll you 're",
        ),
        ("Mr. Smith of the U.S. army, at 9:30 o'clock.", "mr. smith of the u.s. army at 9:30 o'clock"),
        ("10,000 people & 50% of them: ``yes'' \"no\" __", "10,000 people 50 of them yes no"),
        ("Caf\u00e9 \u00c9t\u00e9.", "caf\u00e9 \u00e9t\u00e9"),
        ("n't ' - .", "n't"),
        ("", ""),
    ],
)
def test_sentences_come_to_one_form(sentence: str, tokens: str) -> None:
    assert " ".join(tokenize(sentence)) == tokens
    assert " ".join(tokenize(tokens)) == tokens


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"gold_label": "neutral"', 'expected a JSON object, found \'{"gold_label": "neutral"\' ('),
        ("neutral\ta\tb", "expected a JSON object, found 'neutral\\ta\\tb' ("),
        ("[1]", "expected a JSON object, found '[1]'."),
        (
            '{"gold_label": "neutral", "sentence1": "a"}',
            "expected the keys gold_label, sentence1, sentence2, found no sentence2.",
        ),
        ('{"gold_label": "neutral", "sentence1": "a", "sentence2": null}', "expected text as sentence2, found null."),
        (
            '{"gold_label": "Neutral", "sentence1": "a", "sentence2": "b"}',
            "expected the gold_label entailment, neutral, contradiction or -, found 'Neutral'.",
        ),
    ],
)
def test_wrong_lines(data: Path, line: str, message: str) -> None:
    path = data / "snli/snli_1.0_dev.jsonl"
    path.write_text(json.dumps(TOKENIZED[0]) + "\n\n" + line + "\n")
    assert refused(data).startswith(f"{path}:3: {message}")


def test_files_without_a_label_and_files_that_are_not_there(data: Path) -> None:
    path = data / "snli/snli_1.0_test.jsonl"
    write(path, RAW[1:2])
    assert refused(data) == f"{path}: no pair has a label; expected some with another gold_label than '-'."
    path.write_bytes(b"{}\n\xe9\n")
    assert refused(data) == f"{path}:2: expected UTF-8, found the byte 0xe9."
    path.write_text("")
    assert refused(data) == f"{path}: the file is empty."
    path.unlink()
    message = refused(data)
    assert message.startswith(f"Corpus snli: snli/snli_1.0_test.jsonl is missing under {data} (read too: ")
    assert f"snli_1.0/snli_1.0_train.jsonl); it comes from {SNLI.source}" in message


def test_it_is_read_from_where_it_is_fetched_to_and_from_the_archives_folder(data: Path) -> None:
    assert set(PUBLISHED["snli"].files) == set(SNLI.layouts[0])
    assert PUBLISHED["snli"].licence == SNLI.licence
    before = SNLI.read(data)
    (data / "snli").rename(data / "snli_1.0")
    assert SNLI.read(data) == before


@pytest.mark.skipif("FRONTIER_DATA" not in os.environ, reason="FRONTIER_DATA does not say where the published files are")
def test_complete_corpus() -> None:
    splits = SNLI.read(Path(os.environ["FRONTIER_DATA"]))
    assert [len(split) for split in (splits.dev, splits.test)] == [9_842, 9_824]
    assert len(splits.train) in (549_367, 19_999)

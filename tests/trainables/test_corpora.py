"""Text corpora: what is read of small files written by hand, and what is said where they are wrong."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest

from quantizers.errors import InputError
from trainables.corpora import CORPORA

TREES = {
    "train": "(3 (2 It) (4 (2 's) (4 Good)))\n(2 plain)\n\n(0 (0 Bad) (2 .))\n",
    "dev": "(1 (2 -LRB-) (2 (2 and\\/or) (2 -RRB-)))\n",
    "test": "(4 (2 \\*) (2 1\xa01\\/2))\n(2 (2 so) (2 so))\n",
}
SENTENCE = "He PRP B-NP\nreckons VBZ B-VP\nthe DT B-NP\ndeficit NN I-NP\n. . O\n\n"
REVIEWS = ["Good film.<br /><br />I don't mind", "Bad,\nbad", 'It\'s "great"', "No"] * 6


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path, {f"sst/trees/{split}.txt": text for split, text in TREES.items()})
    write(
        tmp_path, {"conll2000/train.txt": SENTENCE * 15 + "Up RB B-ADVP", "conll2000/test.txt": SENTENCE.replace("NP", "XP")}
    )
    rows = [
        f'"{review.replace(chr(34), chr(34) * 2)}",{("positive", "negative")[i % 2]}\n' for i, review in enumerate(REVIEWS)
    ]
    write(tmp_path, {"imdb/reviews.csv": "review,sentiment\n" + "".join(rows)})
    return tmp_path


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def refused(name: str, folder: Path) -> str:
    with pytest.raises(InputError) as error:
        CORPORA[name].read(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_sst5_reads_root_labels_and_leaves(data: Path) -> None:
    splits = CORPORA["sst5"].read(data)
    assert splits.train.tokens == (("it", "'s", "good"), ("plain",), ("bad", "."))
    assert splits.train.labels == (3, 2, 0)
    assert splits.dev.tokens == (("(", "and/or", ")"),)
    assert splits.test.tokens == (("*", "1\xa01/2"), ("so", "so"))
    assert splits.test.labels == (4, 2)
    assert splits.classes == ("very negative", "negative", "neutral", "positive", "very positive")
    assert [len(split) for split in (splits.train, splits.dev, splits.test)] == [3, 1, 2]


def test_sst2_leaves_out_neutral_sentences(data: Path) -> None:
    splits = CORPORA["sst2"].read(data)
    assert splits.train.tokens == (("it", "'s", "good"), ("bad", "."))
    assert (splits.train.labels, splits.dev.labels, splits.test.labels) == ((1, 0), (0,), (1,))
    assert splits.classes == ("negative", "positive")
    write(data, {"sst/trees/dev.txt": "(2 so)\n"})
    assert "dev.txt: every sentence is neutral (2)" in refused("sst2", data)


@pytest.mark.parametrize("folder", ["trees", "sst"])
def test_sst_in_other_folders(tmp_path: Path, folder: str) -> None:
    write(tmp_path, {f"{folder}/{split}.txt": text.replace("\n", "\r\n") for split, text in TREES.items()})
    assert CORPORA["sst5"].files(tmp_path) == [tmp_path / folder / f"{split}.txt" for split in ("train", "dev", "test")]
    assert CORPORA["sst5"].read(tmp_path).train.labels == (3, 2, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(3 (2 a) (2 b)", "unbalanced brackets: 1 not closed at the end of the line"),
        ("(3 (2 a)) (2 b))", "unbalanced brackets: another node begins after the tree's end"),
        ("(3 (2 a)))", "unbalanced brackets: one more is closed than opened"),
        ("(3 (2 a (2 b)))", "unbalanced brackets: another node begins after 'a'"),
        ("(7 (2 a) (2 b))", "expected a label from 0 to 4 after '(', found '7'"),
        ("(3 (2 a) (good b))", "expected a label from 0 to 4 after '(', found 'good'"),
        ("(3 (2 ))", "a node without a word or a tree in it"),
        ("((2 a))", "unbalanced brackets: a node begins where a label is expected"),
        ("(3 (2 two words))", "expected a bracket, found 'words'"),
        ("a very good film", "expected a tree in brackets, found 'a very good film'"),
    ],
)
def test_wrong_trees(data: Path, line: str, message: str) -> None:
    path = data / "sst/trees/dev.txt"
    path.write_text(f"(2 fine)\n\n{line}\n")
    assert refused("sst5", data) == f"{path}:3: {message}."


def test_conll_cuts_dev_off_the_end_of_train(data: Path) -> None:
    splits = CORPORA["conll2000"].read(data)
    assert [len(split) for split in (splits.train, splits.dev, splits.test)] == [14, 2, 1]
    assert splits.train.tokens[0] == ("He", "reckons", "the", "deficit", ".")
    assert splits.train.tags is not None and splits.dev.tags is not None
    assert splits.train.tags[0] == ("B-NP", "B-VP", "B-NP", "I-NP", "O")
    assert splits.dev.tokens[-1] == ("Up",) and splits.dev.tags[-1] == ("B-ADVP",)  # no line end after the last token
    assert splits.classes == ("B-ADVP", "B-NP", "B-VP", "B-XP", "I-NP", "I-XP", "O")
    write(data, {"conll2000/train.txt": SENTENCE * 9_000})
    assert len(CORPORA["conll2000"].read(data).dev) == 1_000


def test_conll_compressed_with_tabs(data: Path, tmp_path: Path) -> None:
    plain = CORPORA["conll2000"].read(data)
    for split in ("train", "test"):
        path = data / f"conll2000/{split}.txt"
        write(data, {f"conll2000/{split}.txt.gz": gzip.compress(path.read_bytes().replace(b" ", b"\t"))})
        path.unlink()
    assert CORPORA["conll2000"].read(data) == plain
    write(data, {"conll2000/test.txt.gz": gzip.compress(SENTENCE.encode())[:-9]})
    assert "test.txt.gz: not a whole gzip file" in refused("conll2000", data)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("deficit NN", "expected three columns (word, part of speech, chunk tag), found 'deficit NN'"),
        ("a b c d", "expected three columns (word, part of speech, chunk tag), found 'a b c d'"),
        ("deficit NN I-VP", "I-VP must follow B-VP or I-VP within the sentence, found it after B-NP"),
        ("deficit NN NP", "expected the tag O, B-NAME or I-NAME, found 'NP'"),
        ("\nthe DT I-NP", "I-NP must follow B-NP or I-NP within the sentence, found it after the sentence's beginning"),
    ],
)
def test_wrong_columns_and_tags(data: Path, line: str, message: str) -> None:
    path = data / "conll2000/test.txt"
    path.write_text(f"He PRP B-NP\n{line}\n")
    assert refused("conll2000", data) == f"{path}:{2 + line.count(chr(10))}: {message}."


def test_conll_that_is_too_short(data: Path) -> None:
    write(data, {"conll2000/train.txt": SENTENCE * 7})
    assert "expected at least eight sentences, found 7" in refused("conll2000", data)


def test_imdb_csv_halves_and_tokens(data: Path) -> None:
    splits = CORPORA["imdb"].read(data)
    assert [len(split) for split in (splits.train, splits.dev, splits.test)] == [11, 1, 12]
    assert splits.test.labels == (1, 0) * 6
    assert splits.test.tokens[0] == ("good", "film", ".", "i", "do", "n't", "mind")
    assert splits.test.tokens[2] == ("it", "'s", '"', "great", '"')
    assert splits.test.tokens[1] == ("bad", ",", "bad")
    assert splits.classes == ("negative", "positive")
    assert CORPORA["imdb"].read(data) == splits
    assert sorted(splits.train.tokens + splits.dev.tokens) == sorted(splits.test.tokens)


def test_imdb_published_folder_comes_first(data: Path) -> None:
    for split in ("train", "test"):
        write(data, {f"aclImdb/{split}/pos/{i}_9.txt": f"Good {split} {i}!" for i in range(10)})
        write(data, {f"aclImdb/{split}/neg/{i}_2.txt": f"Bad {split} {i}!" for i in range(10)})
    splits = CORPORA["imdb"].read(data)
    assert [len(split) for split in (splits.train, splits.dev, splits.test)] == [18, 2, 20]
    assert splits.test.tokens[0] == ("good", "test", "0", "!")
    assert splits.test.labels == (1,) * 10 + (0,) * 10
    for part in (splits.train, splits.dev):
        assert part.labels == tuple(int(tokens[0] == "good") for tokens in part.tokens)
    empty = data / "aclImdb/test/neg/3_2.txt"
    empty.write_text("")
    assert refused("imdb", data) == f"{empty}: the file is empty."


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("good,positive\nso,neutral\n", ":3: expected the sentiment positive or negative, found 'neutral'"),
        ('"two\nlines",positive\nso,1\n', ":4: expected the sentiment positive or negative, found '1'"),
        ("good,positive,x\n", ":2: expected two columns (review, sentiment), found 3"),
        ("<br />,positive\n", ":2: expected a review, found no word in it"),
        ('good,positive\n"never,positive\n', ":3: the row that begins here is not whole (unexpected end of data)"),
        ("a,positive\n", ": expected at least four reviews, found 1"),
        ("a,positive\n" * 4 + "b,negative\n" * 4, ": 100% of the first half's reviews are positive; the halves are train"),
    ],
)
def test_wrong_reviews(data: Path, rows: str, message: str) -> None:
    path = data / "imdb/reviews.csv"
    path.write_text("review,sentiment\n" + rows)
    assert refused("imdb", data).startswith(f"{path}{message}")


def test_wrong_csv_files(data: Path) -> None:
    path = data / "imdb/reviews.csv"
    path.write_text("text,label\na,1\n")
    assert refused("imdb", data) == f"{path}:1: expected the columns review and sentiment, found text, label."
    write(data, {"imdb/more.csv": "review,sentiment\n"})
    assert refused("imdb", data) == f"{path.parent}: expected one csv file, found more.csv, reviews.csv."


@pytest.mark.parametrize(
    ("name", "file", "also"),
    [
        ("sst5", "sst/trees/dev.txt", "trees/train.txt"),
        ("conll2000", "conll2000/test.txt", ".gz"),
        ("imdb", "imdb/*.csv", "acl"),
    ],
)
def test_files_that_are_not_there(data: Path, name: str, file: str, also: str) -> None:
    next(data.glob(file)).unlink()
    message = refused(name, data)
    assert message.startswith(f"Corpus {name}: ") and f" is missing under {data} (read too: " in message
    assert also in message and f"it comes from {CORPORA[name].source}" in message
    assert "pass --data DIR" in str(pytest.raises(InputError, CORPORA[name].files, None).value)


@pytest.mark.parametrize(
    ("name", "file"), [("sst5", "sst/trees/train.txt"), ("conll2000", "conll2000/test.txt"), ("imdb", "imdb/reviews.csv")]
)
def test_empty_files_and_other_encodings(data: Path, name: str, file: str) -> None:
    path = data / file
    before = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + before)
    assert CORPORA[name].read(data)  # a byte order mark is no part of the text
    path.write_bytes(b"a\nb\nclich\xe9\n")
    assert refused(name, data) == f"{path}:3: expected UTF-8, found the byte 0xe9."
    path.write_bytes(b" \n")
    assert refused(name, data) == f"{path}: the file is empty."


def test_many_reviews_take_seconds(data: Path) -> None:
    """5,000 reviews of 230 words: a tenth of the complete set."""
    review = "This is a film, and I don't know why it's so long. " * 20
    rows = [f'"{review}",{("positive", "negative")[i % 2]}\n' for i in range(5_000)]
    write(data, {"imdb/reviews.csv": "review,sentiment\n" + "".join(rows)})
    began = time.process_time()
    splits = CORPORA["imdb"].read(data)
    assert time.process_time() - began < 5
    assert splits.train.tokens[0][0] is splits.test.tokens[-1][0]  # equal tokens share memory


@pytest.mark.skipif("FRONTIER_DATA" not in os.environ, reason="FRONTIER_DATA does not say where the published files are")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("sst5", [8_544, 1_101, 2_210]),
        ("sst2", [6_920, 872, 1_821]),
        ("conll2000", [7_936, 1_000, 2_012]),
        ("imdb", [22_500, 2_500, 25_000]),
    ],
)
def test_the_published_files(name: str, sizes: list[int]) -> None:
    splits = CORPORA[name].read(Path(os.environ["FRONTIER_DATA"]))
    assert [len(split) for split in (splits.train, splits.dev, splits.test)] == sizes
    if name == "conll2000":  # the chunks that the shared task's page counts
        chunks = [
            sum(tag.startswith("B-") for tags in split.tags or () for tag in tags) for split in (splits.train, splits.dev)
        ]
        assert sum(chunks) == 106_978
        assert sum(tag.startswith("B-") for tags in splits.test.tags or () for tag in tags) == 23_852

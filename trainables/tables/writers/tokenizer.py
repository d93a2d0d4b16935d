"""A tokenizer whose tokens are the words of a table, in the format of the ``tokenizers`` library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quantizers.errors import InputError

UNKNOWN = "[UNK]"
_KNOWN_AS = (UNKNOWN, "<unk>", "<UNK>")


def word_tokenizer(words: Sequence[str], name: str) -> tuple[dict[str, Any], int]:
    """What ``tokenizer.json`` holds: texts are cut into words and punctuation, and row numbers are the tokens' ids.

    A word's second row, which no text can lead to, is called ``[row N]``. Texts become lower case where no word has an upper
    case letter.

    Args:
        words: by row.
        name: of the table, for messages.

    Returns:
        The tokenizer, and how many rows it has behind the table's: 1 for unknown words, or 0 where the table has a word for
        them.

    Raises:
        InputError: a word is not valid Unicode.
    """
    vocabulary: dict[str, int] = {}
    for row, word in enumerate(words):
        token = word
        if token in vocabulary:
            token = f"[row {row}]"
            while token in vocabulary:
                token += "_"
        vocabulary[token] = row
    try:
        "".join(vocabulary).encode()
    except UnicodeEncodeError:
        bad = next(word for word in words if any("\ud800" <= letter <= "\udfff" for letter in word))
        raise InputError(f"{name}: the word {bad!r} is not valid UTF-8, which a tokenizer must hold.") from None
    unknown = next((word for word in _KNOWN_AS if word in vocabulary), UNKNOWN)
    added = int(unknown not in vocabulary)
    vocabulary.setdefault(unknown, len(words))
    lower = all(word == word.lower() for word in words if word != unknown)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"} if lower else None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown},
    }, added

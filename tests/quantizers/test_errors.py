"""Messages are one line that any terminal shows, whatever is named in them."""

import pickle

from quantizers import ArtifactError, InputError


def test_what_does_not_print_is_shown_by_its_code() -> None:
    assert str(InputError("naïve 日本: a\nb\x1b[31m\udcff")) == "naïve 日本: a\\nb\\x1b[31m\\udcff"
    again = pickle.loads(pickle.dumps(ArtifactError("a\nb")))
    assert isinstance(again, ArtifactError) and str(again) == "a\\nb"


def test_of_a_long_message_both_ends_are_kept() -> None:
    message = str(InputError(f"t.txt:3: found '{'9' * 5000}'; expected a number."))
    assert len(message) == 2000 and message.startswith("t.txt:3: found '999") and message.endswith("'; expected a number.")

"""Errors that a user can cause, with messages that say what, where and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 2000  # characters of a message


class InputError(ValueError):
    """The input is wrong; the message is one clear line. The command line exits with code 2 on it.

    Names from files may be in the message: what does not print (line breaks, a terminal's commands, bytes that are no text)
    is shown by its code, and of a message of thousands of characters the middle is left out.
    """

    def __init__(self, message: str = "") -> None:
        shown = message if message.isprintable() else "".join(one if one.isprintable() else _code(one) for one in message)
        super().__init__(shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 405]} ... {shown[-400:]}")


def _code(character: str) -> str:
    return character.encode("unicode_escape").decode()


class ArtifactError(InputError):
    """A compressed file is truncated, altered, from another program or from a newer version."""


class NotFittedError(RuntimeError):
    """A quantizer was used before ``fit`` or ``from_state``."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not known, with the nearest one that is.

    Args:
        kind: what the name is of ("quantizer", "task", "key"), for the message.
        name: the name that was given.
        known: every valid name.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")


def counted(count: int, noun: str) -> str:
    """A number and its noun: ``1 trial``, ``2,000 trials``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"

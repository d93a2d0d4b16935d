"""YAML that people give: any bytes are read in seconds, or refused in one line.

A first pass over the parser's events, which takes no memory, bounds what the second one builds: YAML may nest without end,
and a name for a part (``*part``) can make a kilobyte stand for gigabytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import yaml

from quantizers.errors import InputError

_MAX_BYTES = 1 << 21
_MAX_DEPTH = 50
_MAX_VALUES = 500_000
# libyaml where PyYAML was built with it: ten times as fast, and the same values.
_FAST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FAST):  # type: ignore[misc]  # PyYAML has no types
    """Refuses a mapping that has a key twice: PyYAML would take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """See PyYAML."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def load_documents(text: str | bytes, where: str) -> list[Any]:
    """The documents of YAML, in plain Python values.

    Args:
        text: bytes may be UTF-8, or UTF-16 with a byte order mark.
        where: what to call it in messages.

    Raises:
        InputError: it is not valid, has a key twice, nests more than 50 deep, or has more than 500,000 values.
    """
    if len(text) > _MAX_BYTES:
        raise InputError(f"{where}: {len(text):,} bytes; expected at most {_MAX_BYTES:,}: is it the right file?")
    try:
        _check_events(text, where)
        return list(yaml.load_all(text, Loader=_Loader))  # noqa: S506  a safe loader
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}.") from None
    except Exception as error:  # values are made by int(), datetime() and more, which refuse in ways of their own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{where}: a value is not valid YAML: {reason}.") from None


def node_of(text: str | bytes, number: int) -> Any:
    """Document ``number``, from 0, of what :func:`load_documents` has read, with the lines of all its parts."""
    return next(itertools.islice(yaml.compose_all(text, Loader=_Loader), number, None))


def line_of(node: Any, path: Sequence[str | int]) -> int:
    """The line, from 1, of the part of ``node`` at ``path`` (keys, positions in lists), or of the last that is there."""
    line = node.start_mark.line
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
        else:
            break
    return int(line) + 1


def _check_events(text: str | bytes, where: str) -> None:
    values = 0
    open_parts: list[tuple[str | None, int]] = []  # anchor, and the values before it
    sizes: dict[str, int] = {}  # by anchor, the values that it stands for
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_parts):
                raise InputError(f"{where}: not valid YAML: *{event.anchor} is inside the part that it refers to.")
            values += sizes.get(str(event.anchor), 0)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_parts.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.NodeEvent):
            values += 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_parts.append((event.anchor, values - 1))
                if len(open_parts) > _MAX_DEPTH:
                    raise InputError(
                        f"{where}: not valid YAML for this program: it nests more than {_MAX_DEPTH} levels deep."
                    )
            elif event.anchor is not None:
                sizes[event.anchor] = 1
        if values > _MAX_VALUES:
            raise InputError(f"{where}: more than {_MAX_VALUES:,} values in it.")

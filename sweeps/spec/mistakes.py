"""What is wrong with a sweep file: every mistake at once, each with what was expected and the nearest valid name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from analysis.text import counted
from quantizers.errors import InputError

Path = tuple[str | int, ...]
_MOST = 20  # are told
_LONGEST_EXAMPLE = 40
_MOST_FOUND = 1000  # are looked at: a file may hold hundreds of thousands
# What pydantic calls things, in the words of YAML.
_KINDS = {
    "a list": ("tuple_type", "list_type"),
    "a mapping of keys to values": ("dict_type", "model_type", "mapping_type"),
    "text": ("string_type",),
    "a whole number": ("int_type", "int_parsing", "int_from_float"),
    "a number": ("float_type", "float_parsing"),
    "true or false": ("bool_type", "bool_parsing"),
}
_PATTERNS = {r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters, digits, '.', '_' and '-', a letter or digit first"}
_KIND_OF = {error: kind for kind, errors in _KINDS.items() for error in errors}


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        path: the keys and positions in lists that lead to it.
        text: what is wrong, what was expected, the nearest valid name.
    """

    path: Path
    text: str


class MistakesError(InputError):
    """All mistakes of a sweep's description.

    Attributes:
        lines: a line for each: where it is and what is wrong. The message has them one after the other.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        found = [str(InputError(line)) for line in dict.fromkeys(lines)]
        more = [f"And {counted(len(found) - _MOST, 'more mistake')}."] if len(found) > _MOST else []
        self.lines = (*found[:_MOST], *more)
        super().__init__(" ".join(self.lines))


def explain(error: ValidationError, model: type[BaseModel], given: Any, prefix: str = "") -> list[Mistake]:
    """Every mistake that pydantic found, in the order of the keys.

    Args:
        error: what ``model`` said of ``given``.
        model: a model whose fields are the known keys.
        given: the keys and values that were checked.
        prefix: what stands in front of keys in messages.
    """
    found: dict[Path, list[Any]] = {}
    for one in error.errors()[:_MOST_FOUND]:
        found.setdefault(_real(one["loc"], given, one["type"]), []).append(one)
    # Where a value may be of several kinds, pydantic reports on each; what is wrong within one kind tells more than "not the
    # other kind".
    inner = {path[:end] for path in found for end in range(1, len(path))}
    out: list[Mistake] = []
    hints: set[str] = set()  # a misspelt key is not missing as well
    listed: set[Path] = set()  # the known keys of a place are told once
    for path, errors in found.items():
        if path in inner and all(len(one["loc"]) > len(path) or one["type"] == "too_short" for one in errors):
            continue  # too short: what is wrong does not count
        if errors[0]["type"] == "extra_forbidden":
            known = _keys_at(model, path[:-1])
            text = _unknown(str(path[-1]), [prefix, *map(str, path[:-1])], known, list_all=path[:-1] not in listed)
            listed.add(path[:-1])
            hints.update(_near(str(path[-1]), known))
        else:
            text = _explained(errors, [prefix, *map(str, path)])
        out.append(Mistake(path, text))
    missing = {path for path, errors in found.items() if errors[0]["type"] == "missing"}
    return [one for one in out if not (one.path in missing and one.path[-1] in hints)]


def unknown_keys(given: Iterable[str], known: Sequence[str], what: str) -> list[Mistake]:
    """A mistake for each name of ``given`` that is not in ``known``; ``what`` is whose parameters they are."""
    wrong = [name for name in given if name not in known][:_MOST_FOUND]
    return [Mistake((name,), _unknown(name, [what], known, list_all=name == wrong[0], kind="parameter")) for name in wrong]


def attempt(act: Callable[[], Any], path: Path, text: str = "") -> list[Mistake]:
    """The mistake that ``act`` refuses its input for, or none; ``text`` stands in front of what it says."""
    try:
        act()
    except InputError as error:
        return [Mistake(path, f"{text}{error}")]
    return []


def _real(location: Sequence[str | int], given: Any, kind: str) -> Path:
    """The part of a pydantic location that is in the input: the rest are names of kinds that a value might have been."""
    path: list[str | int] = []
    for part in location:
        if isinstance(given, Mapping) and part in given:
            given = given[part]
        elif isinstance(given, list | tuple) and isinstance(part, int) and part < len(given):
            given = given[part]
        elif not (kind == "missing" and part == location[-1]):
            continue
        path.append(part)
    return tuple(path)


def _explained(errors: Sequence[Any], where: Sequence[str]) -> str:
    first = errors[0]
    place = ".".join(filter(None, where))
    if first["type"] == "missing":
        start = f"{where[0]}: " if where[0] else ""
        return f"{start}the key {'.'.join(where[1:])!r} is missing."
    wants = [_wanted(one) for one in errors]
    literals = [one["ctx"]["expected"].replace(" or ", ", ") for one in errors if one["type"] == "literal_error"]
    near = _near(first["input"], ", ".join(literals).replace("'", "").split(", ")) if isinstance(first["input"], str) else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    message = (
        first["msg"].removeprefix("Value error, ").replace("Tuple should have", "must have").replace(" after validation", "")
    )
    if all(wants):
        message = f"must be {' or '.join(dict.fromkeys(str(want) for want in wants))}"
        if meant := _meant(first["input"], wants):
            message += f", such as {meant}"
    value = "" if isinstance(first["input"], Mapping) else f" (given: {_shown(first['input'])})"
    return f"{place + ': ' if place else ''}{message}{value}.{hint}"


def _meant(value: Any, wants: Sequence[str | None]) -> str | None:
    """The list of one value that was given alone, or the value that was given as a list of one; None where it is neither."""
    if "a list" in wants:
        return f"[{value}]" if isinstance(value, int | float | str) and len(_shown(value)) <= _LONGEST_EXAMPLE else None
    inner = value[0] if isinstance(value, list | tuple) and len(value) == 1 else None
    kinds = {"a whole number": int, "a number": int | float, "text": str}
    fits = any(isinstance(inner, kinds[want]) for want in wants if want in kinds)
    return str(inner) if fits and len(_shown(inner)) <= _LONGEST_EXAMPLE else None


def _wanted(one: Any) -> str | None:
    """What a value must be, for "must be ..."; None where the message is not of that form."""
    if one["type"] in _KIND_OF:
        return _KIND_OF[one["type"]]
    if one["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(one["ctx"]["pattern"])
    start = "Input should be "
    return str(one["msg"]).removeprefix(start) if one["msg"].startswith(start) else None


def _unknown(name: str, where: Sequence[str], known: Sequence[str], *, list_all: bool, kind: str = "key") -> str:
    near = _near(name, known)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    place = ".".join(filter(None, where))
    told = f" Known: {', '.join(known) or 'none'}." if list_all else ""
    return f"unknown {kind} {_shown(name)}{f' in {place}' if place else ''}.{hint}{told}"


def _near(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)


def _shown(value: Any) -> str:
    """A value in a message: its beginning."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return type(value).__name__
    return text if len(text) <= 200 else text[:200] + "..."


def _keys_at(model: type[BaseModel], path: Path) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        candidates = getattr(field.annotation, "__args__", (field.annotation,)) if field else ()
        inner = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)

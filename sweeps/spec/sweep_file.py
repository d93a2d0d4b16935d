"""Sweep files and presets as they are written: several sweeps in one file, presets of several scales, changes to keys."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from quantizers.errors import InputError, unknown_name
from quantizers.files import unsealed_json
from sweeps.spec.mistakes import Mistake
from sweeps.spec.yaml_text import line_of, load_documents, node_of
from sweeps.storage.layout import STATUS_FILE, SWEEP_FILE

SCALES = ("small", "paper")  # the first is what runs where none is asked for


@dataclasses.dataclass
class Document:
    """One sweep of a file or preset.

    Attributes:
        source: the file, or "preset NAME", for messages.
        label: ", sweep 2" where the file has several, else empty.
        keys: keys and values, with the changes that were made to them.
        text: the whole file.
        number: of the sweep among the file's YAML documents, from 0.
        changed: options ``--set`` that changed something, by the key's parts.
    """

    source: str
    label: str
    keys: dict[str, Any]
    text: str | bytes
    number: int
    changed: dict[tuple[str, ...], str] = dataclasses.field(default_factory=dict)

    @property
    def where(self) -> str:
        """What to call it in messages."""
        return self.source + self.label

    def change(self, text: str) -> None:
        """Set a key; see :func:`change`."""
        change(self.keys, text)
        self.changed[tuple(text.partition("=")[0].strip().split("."))] = text

    def told(self, mistakes: Sequence[Mistake]) -> list[str]:
        """A line for each mistake, with its place: the option that set it, or file and line; in that order."""
        placed = [(self._option(one), 0 if self._option(one) else line_of(self._node, one.path), one) for one in mistakes]
        placed.sort(key=lambda one: one[1])
        return [f"{option or f'{self.source}:{line}{self.label}'}: {one.text}" for option, line, one in placed]

    @functools.cached_property
    def _node(self) -> Any:
        return node_of(self.text, self.number)

    def _option(self, mistake: Mistake) -> str | None:
        names = tuple(map(str, mistake.path))
        options = [text for key, text in self.changed.items() if names and names[: len(key)] == key[: len(names)]]
        return f"--set {options[-1]}" if options else None


def _preset_files() -> dict[str, dict[str, str]]:
    """File names of every preset by scale; the scale of a preset that has none is empty."""
    found: dict[str, dict[str, str]] = {}
    for file in resources.files("sweeps.spec").joinpath("presets").iterdir():
        if file.name.endswith(".yaml"):
            name, dot, scale = file.name[:-5].rpartition(".")
            known = bool(dot) and scale in SCALES
            found.setdefault(name if known else file.name[:-5], {})[scale if known else ""] = file.name
    return found


def preset_names() -> list[str]:
    """Names of the presets: what comes with the program."""
    return sorted(_preset_files())


def preset_scales(name: str) -> list[str]:
    """The scales of preset ``name``, the default first; empty where it has none."""
    return [scale for scale in SCALES if scale in _preset_files()[name]]


def preset_text(name: str, scale: str | None = None) -> str:
    """The YAML of preset ``name``, of its first scale unless another is named.

    Raises:
        InputError: it has no such scale.
    """
    files, scales = _preset_files()[name], preset_scales(name)
    if scale is not None and scale not in scales:
        have = f"it has {' and '.join(scales)}" if scales else "it has no scales"
        near = difflib.get_close_matches(scale, scales, n=1)
        raise InputError(
            f"--scale {scale}: preset {name} has no such scale: {have}.{f' Did you mean {near[0]!r}?' if near else ''}"
        )
    file = files[scale or (scales[0] if scales else "")]
    return resources.files("sweeps.spec").joinpath("presets", file).read_text(encoding="utf-8")


def read_documents(source: str, scale: str | None = None) -> list[Document]:
    """The sweeps of a file or preset.

    Args:
        source: path of a YAML file, or the name of a preset.
        scale: of a preset that has scales; None for its first.

    Raises:
        InputError: no such preset, file or scale, or not the YAML of sweeps.
    """
    names = preset_names()
    text: str | bytes
    if source in names:
        text, where = preset_text(source, scale), f"preset {source}"
    elif scale is not None and Path(source).is_file():
        raise InputError(f"--scale {scale}: {source} is a file; only presets have scales. See: frontier presets")
    elif Path(source).is_file():
        text, where = _read(Path(source)), source
    elif (Path(source) / SWEEP_FILE).is_file():
        raise InputError(f"{source}: the folder of a run; continue it with: frontier resume {shlex.quote(source)}")
    elif Path(source).is_dir():
        raise InputError(f"{source}: a folder; expected a sweep file.{_if_table(source)}")
    elif "/" in source or source.endswith((".yaml", ".yml")):
        raise InputError(f"{source}: no such sweep file. Presets: {', '.join(names)}.")
    else:
        raise unknown_name("preset", source, names)
    hint = _if_table(source) if where == source and not source.endswith((".yaml", ".yml")) else ""
    try:
        documents = [(number, data) for number, data in enumerate(load_documents(text, where)) if data is not None]
    except InputError as error:
        raise InputError(f"{error}{hint}") from None
    found = []
    for count, (number, data) in enumerate(documents or [(0, None)], start=1):
        label = f", sweep {count}" if len(documents) > 1 else ""
        if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
            raise InputError(f"{where}{label}: expected a mapping of keys to values (name, table, quantizers, ...).{hint}")
        found.append(Document(where, label, data, text, number))
    return found


def _if_table(path: str) -> str:
    """What to do with a table that was given in place of a sweep file."""
    return f" For a table, this writes a sweep file: frontier init {shlex.quote(path)}"


def as_run(run_dir: Path) -> dict[str, Any] | None:
    """The keys of the sweep in ``run_dir`` as it was last run, whatever has become of its file; None: nobody knows."""
    try:
        keys = unsealed_json((run_dir / STATUS_FILE).read_bytes()).get("sweep")
    except (OSError, ValueError):
        return None
    return keys if isinstance(keys, dict) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}.") from None


def change(data: dict[str, Any], text: str) -> None:
    """Set the key of ``key=value`` in ``data``, the key dotted, the value YAML.

    Raises:
        InputError: it is not of that form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {text}: expected key=value, such as --set seeds=[0,1,2].")
    parts = key.strip().split(".")
    place = data
    for part in parts[:-1]:
        inner = place.get(part)
        place[part] = dict(inner) if isinstance(inner, dict) else {}
        place = place[part]
    found = load_documents(value, f"--set {text}")
    if len(found) > 1:
        raise InputError(f"--set {text}: the value is not valid YAML: expected one document.")
    parsed = found[0] if found else None
    if parts[0] == "budgets" and len(parts) == 2:
        place.clear()  # the two kinds of budget exclude each other: the last one given counts
    place[parts[-1]] = parsed

"""Finds every method: the modules of this package and the entry points ``embedding_frontier.quantizers``.

A new method is one new file: nothing here, or anywhere else, lists the methods by name.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from quantizers.base import Quantizer, QuantizerConfig
from quantizers.errors import InputError, unknown_name

ENTRY_POINT_GROUP = "embedding_frontier.quantizers"


def _classes(module: ModuleType) -> list[type[Quantizer]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Quantizer)
        and not inspect.isabstract(value)
        and value.__module__ == module.__name__
        and "name" in vars(value)
    ]


@functools.cache
def _registry() -> dict[str, type[Quantizer]]:
    import quantizers

    found: dict[str, type[Quantizer]] = {}

    def add(cls: type[Quantizer], source: str) -> None:
        other = found.setdefault(cls.name, cls)
        if other is not cls:
            raise InputError(f"Two quantizers are called {cls.name!r}: {other.__module__} and {source}.")

    for info in pkgutil.iter_modules(quantizers.__path__):
        for cls in _classes(importlib.import_module(f"quantizers.{info.name}")):
            add(cls, cls.__module__)
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        loaded = point.load()
        for cls in _classes(loaded) if isinstance(loaded, ModuleType) else [loaded]:
            add(cls, point.value)
    return dict(sorted(found.items()))


def methods() -> dict[str, type[Quantizer]]:
    """Every registered method by name, in alphabetical order."""
    return dict(_registry())


def get(name: str) -> type[Quantizer]:
    """The method called ``name``.

    Raises:
        InputError: there is none; the message suggests the nearest name.
    """
    registry = _registry()
    if name not in registry:
        raise unknown_name("quantizer", name, registry)
    return registry[name]


def make_config(name: str, parameters: Mapping[str, Any]) -> QuantizerConfig:
    """The configuration of method ``name`` with ``parameters``.

    Raises:
        InputError: unknown method, unknown parameter (the nearest is suggested), or a value that does not fit.
    """
    cls = get(name)
    unknown = set(parameters) - set(cls.Config.model_fields)
    if unknown:
        raise unknown_name(f"parameter of quantizer {name}", min(unknown), cls.Config.model_fields)
    try:
        return cls.Config(**parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        given = f" (given: {first['input']!r})" if where else ""
        raise InputError(f"Quantizer {name}{', ' + where if where else ''}: {first['msg']}{given}.") from None


def create(name: str, **parameters: Any) -> Quantizer:
    """An unfitted quantizer: ``create("rq", num_codebooks=16, codebook_size=256)``."""
    return get(name)(make_config(name, parameters))

"""Finds every method: the modules of :mod:`quantizers.methods` and the entry points ``embedding_frontier.quantizers``.

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
from typing import Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from quantizers.base import Quantizer, QuantizerConfig
from quantizers.errors import InputError, unknown_name

ENTRY_POINT_GROUP = "embedding_frontier.quantizers"
M = TypeVar("M", bound=BaseModel)


class Named(Protocol):
    """A class that a registry can hold."""

    name: ClassVar[str]


T = TypeVar("T", bound=Named)


def discover(package: ModuleType, base: type[T], group: str, kind: str) -> dict[str, type[T]]:
    """The concrete subclasses of ``base`` that have a name of their own, by name.

    Args:
        package: its modules are searched.
        base: what to look for.
        group: entry points of other people's packages: a class, or a module to search.
        kind: what ``base`` is to people ("quantizer"), for messages.

    Raises:
        InputError: two classes have the same name, a finished class has none, a named class lacks something that ``base``
            asks for, or an entry point cannot be loaded or holds no such class. (To leave it out in silence would look like
            a method that is not installed.)
    """
    found: dict[str, type[T]] = {}

    def add(cls: type[T], source: str) -> None:
        if missing := _missing(cls):
            raise InputError(f"The {kind} {cls.name!r} of {source} does not define {', '.join(missing)}.")
        other = found.setdefault(cls.name, cls)
        if other is not cls:
            raise InputError(f"Two {kind}s are called {cls.name!r}: {other.__module__} and {source}.")

    def search(module: ModuleType, source: str) -> int:
        own = [
            value
            for value in vars(module).values()
            if inspect.isclass(value)
            and issubclass(value, base)
            and f"{value.__module__}.".startswith(f"{module.__name__}.")
        ]
        for cls in own:
            if not (hasattr(cls, "name") or inspect.isabstract(cls)):
                raise InputError(f'The {kind} {cls.__name__} of {source} has no name: give the class a line name = "...".')
        named = [cls for cls in own if "name" in vars(cls)]
        for cls in named:
            add(cls, source)
        return len(named)

    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        search(module, module.__name__)
    for point in importlib.metadata.entry_points(group=group):
        whose = f"{point.dist.name}'s entry point" if point.dist else "entry point"
        try:
            loaded = point.load()
        except Exception as error:  # the import of other people's code may fail in any way
            raise InputError(f"{whose} {point.name} = {point.value} cannot be loaded: {error!r}.") from error
        if isinstance(loaded, ModuleType) and search(loaded, point.value):
            continue
        if not (inspect.isclass(loaded) and issubclass(loaded, base) and hasattr(loaded, "name")):
            raise InputError(f"{whose} {point.name} = {point.value} holds no {kind} with a name.")
        add(loaded, point.value)
    return dict(sorted(found.items()))


def _missing(cls: type) -> list[str]:
    """What the base classes of ``cls`` ask for and it does not have: methods, then attributes of the class."""
    attributes = {
        name
        for base in cls.__mro__
        for name, annotation in inspect.get_annotations(base).items()
        if str(annotation).removeprefix("typing.").startswith("ClassVar") and not hasattr(cls, name)
    }
    return sorted(getattr(cls, "__abstractmethods__", ())) + sorted(attributes)


def validated(model: type[M], parameters: Mapping[str, Any], what: str) -> M:
    """``model(**parameters)``, with errors that people can act on; ``what`` is whose parameters they are ("quantizer rq").

    Raises:
        InputError: unknown parameter (the nearest is suggested), or a value that does not fit.
    """
    unknown = set(parameters) - set(model.model_fields)
    if unknown:
        raise unknown_name(f"parameter of {what}", min(unknown), model.model_fields)
    try:
        return model(**parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        given = f" (given: {first['input']!r})" if where else ""
        message = f"{what}{', ' + where if where else ''}: {first['msg'].removeprefix('Value error, ')}{given}."
        raise InputError(message[0].upper() + message[1:]) from None


@functools.cache
def _registry() -> dict[str, type[Quantizer]]:
    import quantizers.methods

    return discover(quantizers.methods, Quantizer, ENTRY_POINT_GROUP, "quantizer")  # type: ignore[type-abstract]


def list_methods() -> dict[str, type[Quantizer]]:
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
    return validated(get(name).Config, parameters, f"quantizer {name}")


def create(name: str, **parameters: Any) -> Quantizer:
    """An unfitted quantizer: ``create("rq", num_codebooks=16, codebook_size=256)``."""
    return get(name)(make_config(name, parameters))

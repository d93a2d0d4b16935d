"""What a result depends on beside its inputs: the digest of the code that made it, and the versions under it."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterable
from pathlib import Path

_PACKAGES = ("quantizers", "trainables")
_LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn", "safetensors", "ray", "mlflow", "pyarrow")


@functools.cache
def _source(module: str) -> bytes | None:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).read_bytes()


@functools.cache
def _imports(module: str) -> frozenset[str]:
    """Modules of this project that ``module`` imports, wherever in it the import stands."""
    source = _source(module)
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)) if source else ():
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            # The registry imports every method; following it would make each digest depend on all of them.
            if name.split(".")[0] in _PACKAGES and "." in name and not name.endswith(".registry"):
                if _exists(name):
                    found.add(name)
    return frozenset(found)


@functools.cache
def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def covered(modules: Iterable[str]) -> tuple[str, ...]:
    """``modules`` and all that they import from this project, by name."""
    todo, seen = list(modules), set[str]()
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo.extend(_imports(module))
    return tuple(sorted(seen))


def code_digest(modules: Iterable[str]) -> str:
    """Digest (16 hexadecimal digits) of the source of ``modules`` and of all that they import from this project.

    A change to one method's file changes the digest of that method's trials only.
    """
    state = hashlib.blake2b(digest_size=8)
    for module in covered(modules):
        state.update(module.encode() + b"\0" + (_source(module) or b"") + b"\0")
    return state.hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("embedding-frontier", *_LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

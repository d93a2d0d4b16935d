"""What a sweep on a cluster needs of this machine's Python: this program, and methods and tasks of other packages.

Other packages are found by their entry points, so each is sent with a ``dist-info`` folder that names them. What such a
package needs in its turn is expected on the cluster.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import importlib.util
import re
import shutil
from pathlib import Path

from quantizers.errors import InputError
from quantizers.registry import ENTRY_POINT_GROUP as METHODS
from trainables.registry import ENTRY_POINT_GROUP as TASKS

PACKAGES = ("quantizers", "trainables", "sweeps", "analysis")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


def copy_packages(place: Path) -> list[str]:
    """Copy this program's packages, and those of others that register methods or tasks, into the folder ``place``.

    Returns:
        A line for each package of others: its name, its version, and which of its files are compiled for this machine.

    Raises:
        InputError: a package cannot be sent along.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(f"the package {name} cannot be found, so it cannot be sent to the cluster.")
        shutil.copytree(next(iter(spec.submodule_search_locations)), place / name, ignore=_LEFT_OUT)
    modules: dict[str, set[str]] = {}
    found: dict[str, importlib.metadata.Distribution] = {}
    for point in (*importlib.metadata.entry_points(group=METHODS), *importlib.metadata.entry_points(group=TASKS)):
        top = point.value.partition(":")[0].strip().partition(".")[0]
        if top not in PACKAGES and point.dist is not None:
            found[point.dist.name] = point.dist
            modules.setdefault(point.dist.name, set()).add(top)
    return [_copy_distribution(found[name], sorted(modules[name]), place) for name in sorted(found)]


def _copy_distribution(dist: importlib.metadata.Distribution, modules: list[str], place: Path) -> str:
    before = set(place.rglob("*"))
    if dist.read_text("RECORD") is not None:  # installed; an editable one's record has no modules
        for file in dist.files or ():
            if file.parts[0] in PACKAGES:
                raise InputError(
                    f"{dist.name}: cannot be sent to the cluster: this program has a folder {file.parts[0]}, too."
                )
            own = not file.is_absolute() and ".." not in file.parts and "__pycache__" not in file.parts
            if own and file.suffix != ".pth" and ".dist-info" not in file.parts[0] and "__editable__" not in file.parts[0]:
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(dist.locate_file(file)), place / file)
    for name in modules:
        if not (place / name).is_dir() and not any(path.is_file() for path in place.glob(f"{name}.*")):
            _copy_module(dist.name, name, place)
    info = place / f"{re.sub('[-_.]+', '_', dist.name)}-{dist.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist.name}\nVersion: {dist.version}\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(dist.read_text("entry_points.txt") or "", encoding="utf-8")
    compiled = [
        str(path.relative_to(place))
        for path in sorted(set(place.rglob("*")) - before)
        if path.name.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
    ]
    return f"{dist.name} {dist.version}" + (f" (compiled for this machine: {', '.join(compiled)})" if compiled else "")


def _copy_module(owner: str, name: str, place: Path) -> None:
    """Copy a module or a package from where Python imports it."""
    spec = importlib.util.find_spec(name)
    source = None if spec is None or spec.origin is None else Path(spec.origin)
    if spec is None or source is None or not source.is_file():
        why = "it cannot be found" if spec is None else "it is a namespace or in an archive: install it as files"
        raise InputError(f"{owner}: its module {name} cannot be sent to the cluster: {why}.")
    if spec.submodule_search_locations:
        shutil.copytree(source.parent, place / name, ignore=_LEFT_OUT)
    else:
        shutil.copyfile(source, place / source.name)

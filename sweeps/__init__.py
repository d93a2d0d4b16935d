"""Sweeps over quantizer type x code budget: configuration, Ray Tune runner, ledger, tracking, command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.driver import Run
    from sweeps.spec.config import SweepConfig

__all__ = ["run"]


def run(config: SweepConfig | Mapping[str, Any] | str | Path, *, data_dir: str | Path | None = None, **options: Any) -> Run:
    """Run a sweep from Python; the same as ``frontier run``.

    Args:
        config: a sweep, its keys as a mapping, the path of a sweep file, or the name of a preset.
        data_dir: where relative table and task files are looked for.
        options: ``address``, ``console``, ``command``: see :func:`sweeps.driver.run`.

    Raises:
        InputError: something is wrong with the sweep; nothing was written.
    """
    from sweeps.driver import run as run_sweep
    from sweeps.spec.config import build, load
    from sweeps.spec.prepare import wrong_names

    if isinstance(config, str | Path):
        config = load(str(config), further=wrong_names)
    elif isinstance(config, Mapping):
        config = build(config)
    return run_sweep(config, data_dir=None if data_dir is None else Path(data_dir), **options)

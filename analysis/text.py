"""Numbers and configurations as people read them: in the report, on plots and in the terminal. MB = 10^6 bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from quantizers.errors import counted as counted

_UNITS = ((10**9, "GB"), (10**6, "MB"), (10**3, "KB"))


def size(num_bytes: float | None, *, short: bool = False) -> str:
    """Bytes with three significant digits: ``1.20 MB``; ``short`` leaves out zeros at the end: ``1.2 MB``."""
    if num_bytes is None or not math.isfinite(num_bytes):
        return ""
    for unit, name in _UNITS:
        if num_bytes >= 0.9995 * unit:
            return f"{_plain(num_bytes / unit, short=short)} {name}"
    return f"{num_bytes:.0f} B"


def ratio(value: float | None, *, short: bool = False) -> str:
    """A compression ratio: ``×31.9``; ``short`` as in :func:`size`."""
    return "" if value is None or not math.isfinite(value) else f"×{_plain(value, short=short)}"


def number(value: float | None, digits: int = 4) -> str:
    """A metric's value with four significant digits; nothing where there is none."""
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return text.replace("e-0", "e-").replace("e+0", "e") if "e" in text else _plain(value, digits)


def interval(low: float | None, high: float | None) -> str:
    """An interval as ``low to high``; nothing where there is none."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return ""
    return f"{number(low)} to {number(high)}"


def over_seeds(low: float | None, high: float | None, lowest: float | None, highest: float | None, num_seeds: int) -> str:
    """What several seeds say of a value: its 95 % interval, or why there is none; nothing of one seed.

    Args:
        low: of the interval of the mean, as ``high``.
        high: see ``low``.
        lowest: the smallest value of any seed, and ``highest`` the largest.
        highest: see ``lowest``.
        num_seeds: how many seeds there are.
    """
    if num_seeds < 2 or lowest is None or highest is None:
        return ""
    if lowest == highest:
        return "does not vary with the seed"
    return interval(low, high) or f"{num_seeds} seeds: {number(lowest)} to {number(highest)}, no interval"


def of_point(point: Mapping[str, Any]) -> str:
    """:func:`over_seeds` of a row of ``frontier.parquet``."""
    low, high, lowest, highest = (point[f"value_{end}"] for end in ("low", "high", "lowest", "highest"))
    return over_seeds(low, high, lowest, highest, point["num_seeds"])


def share(value: float | None) -> str:
    """A share in per cent: ``0.998`` as ``99.8 %``."""
    return "" if value is None or math.isnan(value) else f"{100 * value:.3g} %"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits them: ``0.4 s``, ``12 s``, ``3 min``, ``1.5 h``."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 90:
        return f"{_plain(seconds, 2)} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{_plain(seconds / 3600, 2)} h"


def _plain(value: float, digits: int = 3, *, short: bool = False) -> str:
    """Significant digits without an exponent."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")  # 0.9996 with three digits is 1.00, not 1.000
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if short and "." in text else text


def config_label(config_json: str | None, *, given: bool = False) -> str:
    """A whole configuration: ``num_codebooks=16, codebook_size=256``; ``given`` leaves out what has no value."""
    items = _parsed(config_json).items()
    return ", ".join(f"{key}={setting(value)}" for key, value in items if not given or value is not None)


def inline(entry: Any) -> str:
    """An entry of a sweep file, a name or a mapping, in one line: ``sentiment (precision=bfloat16)``."""
    if not isinstance(entry, dict):
        return str(entry)
    first, *rest = entry.items()
    return f"{first[1]} ({', '.join(f'{key}={setting(value)}' for key, value in rest)})" if rest else str(first[1])


def short_configs(configurations: Iterable[tuple[str, str | None]]) -> dict[tuple[str, str | None], str]:
    """What tells the configurations of one method apart: the parameters that vary among them.

    Args:
        configurations: (quantizer, config_json) pairs, repeats allowed.

    Returns:
        Text for each pair; empty where the method has one configuration.
    """
    by_method: dict[str, dict[str | None, dict[str, Any]]] = {}
    for method, text in configurations:
        by_method.setdefault(method, {})[text] = _parsed(text)
    out = {}
    for method, found in by_method.items():
        real = [config for config in found.values() if config]  # what was skipped may have none
        values = {key: {setting(config.get(key)) for config in real} for key in {name for one in real for name in one}}
        for text, config in found.items():
            varying = [key for key in config if len(values[key]) > 1]
            out[(method, text)] = ", ".join(f"{key}={setting(config[key])}" for key in varying)
    return out


def _parsed(config_json: str | None) -> dict[str, Any]:
    try:
        parsed = json.loads(config_json or "{}")
    except ValueError:
        return {"config": config_json}
    return parsed if isinstance(parsed, dict) else {"config": parsed}


def setting(value: Any) -> str:
    """The value of a parameter: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)

"""Sizes and times as people write them: ``100KB``, ``30m``."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_MOST = 2**63
TIMES = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_bytes(value: Any) -> Any:
    """Bytes of ``100000``, ``"100KB"``, ``"1.5 MB"`` (MB = 10^6, MiB = 2^20)."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", value)
        if not match or match[2].upper() not in SIZES or match[1].count(".") > 1:
            raise ValueError(f"{value!r} is not a size such as 250000, 100KB or 1.5MB")
        size = float(match[1]) * SIZES[match[2].upper()]
        if size >= _MOST:
            raise ValueError(f"{value[:40]!r} is too large a size")
        return int(size)
    return value


def parse_seconds(value: Any) -> Any:
    """Seconds of ``90``, ``"30m"``, ``"2h"``."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)\s*", value)
        if not match:
            raise ValueError(f"{value!r} is not a time such as 90s, 30m or 2h")
        return float(match[1]) * TIMES[match[2]]
    return value


Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=1)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0)]

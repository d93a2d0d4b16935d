"""Addresses that carry a password are refused: what a sweep is told is written to files, records and screens.

Credentials come from the environment, where MLflow's client, Amazon's tools and databases look for them by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from quantizers.errors import InputError

# Scheme, then a user before the @ of the host; a path, a query or a fragment may have an @ of its own. One slash: as a path.
_WITH_USER = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]+):/{1,2}[^/?#\s]*@")
# Or a parameter that is called like one.
_IN_QUERY = re.compile(
    r"\b([A-Za-z][A-Za-z0-9+.-]+):/[^\s]*[?&;][^=&;\s]*"
    r"(?:passw|passphrase|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|signature|\bsig\b)[^=&;\s]*=",
    re.IGNORECASE,
)
_INSTEAD = {
    "http": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)",
    "https": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN)",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "postgresql": "PGUSER and PGPASSWORD, or ~/.pgpass",
}


def refuse_credentials(where: str, value: Any) -> None:
    """Refuse an address with a user or a password in it, in ``value`` or anywhere below.

    Args:
        where: what is named in the error; the address itself is not.
        value: text or a path, or mappings and sequences with such in them.

    Raises:
        InputError: there is one; it says which variables to set instead.
    """
    for place, text in _texts(where, value):
        found = _WITH_USER.search(text) or _IN_QUERY.search(text)
        if found:
            scheme = found[1].lower().partition("+")[0]
            instead = _INSTEAD.get(scheme, "the variables or files that its client reads")
            raise InputError(
                f"{place}: the {scheme}:// address has a user or a password in it, which would be stored and shown. "
                f"Leave them out, and set {instead}."
            )


def _texts(where: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str | PurePath):
        yield where, str(value)
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(f"{where}.{key}", one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(where, one)

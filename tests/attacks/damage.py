"""Random damage: bytes changed, cut, doubled, put in; inside archives and headers too, whose lengths are made to fit."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import struct
import zipfile
from random import Random
from typing import Any

TOKENS = (
    [b"\0", b"\xff", b"\n", b"\r", b" ", b"\t", b'"', b"'", b",", b"(", b")", b"[", b"{", b"]", b"}", b":", b"#", b"~"]
    + [b"nan", b"inf", b"-1", b"1e400", b"9" * 25, b"9" * 5000, b"[" * 3000, b"\xef\xbb\xbf", b"\xff\xfe", b"\x1b[31m"]
    + [b"True", b"null", b"NaN", b"../../x", b"/dev/zero", b"!!python/object/apply:os.system [x]", b"&a ", b"*a", b"\\ud800"]
    + [struct.pack("<q", value) for value in (-1, 2**31, 2**40, 2**62)]
    + [struct.pack("<i", value) for value in (-1, 2**31 - 1, 65536)]
)
VALUES: list[Any] = [
    0,
    -1,
    1,
    2**31,
    2**63,
    10**30,
    10**400,
    True,
    None,
    "",
    "x",
    "../../x",
    1.5,
    float("inf"),
    float("nan"),
    [],
    {},
]
# Opcodes that call os.system with the command in place of %s; what follows is another pickle.
PICKLE = b"cos\nsystem\n(S'%s'\ntR."


def damaged(data: bytes, dice: Random) -> bytes:
    """``data`` with damage, at a random depth."""
    if dice.random() < 0.65:
        found = _inside(data, dice)
        if found is not None:
            return found
    return raw(data, dice)


def raw(data: bytes, dice: Random) -> bytes:
    """``data`` cut off, or with bytes changed, taken out, doubled or put in, at one to four places."""
    found = bytearray(data)
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        # Headers and footers are short and decide most: a third of the places each.
        size = len(found)
        place = dice.choice([dice.randrange(size + 1), min(size, dice.randrange(64)), max(0, size - dice.randrange(64))])
        length = dice.choice([1, 1, 2, 4, 8, 40, 1000])
        kind = dice.randrange(6)
        if kind == 0 and place < size:
            found[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            found[place : place + length] = dice.randbytes(min(length, 40))
        elif kind == 2:
            del found[place:]
        elif kind == 3:
            del found[place : place + length]
        elif kind == 4:
            found[place:place] = found[place : place + length] * dice.choice([1, 1, 50])
        else:
            token = dice.choice(TOKENS)
            found[place : place + dice.choice([0, len(token)])] = token
    return bytes(found)


def _inside(data: bytes, dice: Random) -> bytes | None:
    """Damage to what an archive holds, or to the JSON of a header; None where ``data`` is neither."""
    if data.startswith(b"PK\x03\x04"):
        return _in_archive(data, dice)
    if data.startswith(b"\x1f\x8b"):
        return gzip.compress(damaged(gzip.decompress(data), dice), 1)
    if data.startswith(b"\xfd7zXZ"):
        return lzma.compress(damaged(lzma.decompress(data), dice), preset=0)
    if data.startswith(b"{"):
        return _json(data, dice)
    if data.startswith(b"\x93NUMPY\x01\x00"):
        end = 10 + int.from_bytes(data[8:10], "little")
        header = raw(data[10:end], dice)[:65535]
        return data[:8] + struct.pack("<H", len(header)) + header + data[end:]
    if data.startswith(b"\x80") and b"." in data:  # a pickle
        return PICKLE % b"touch CODE-WAS-RUN" + data if dice.random() < 0.3 else raw(data, dice)
    if len(data) > 9 and data[8:9] == b"{":  # safetensors
        end = 8 + int.from_bytes(data[:8], "little")
        header = _json(data[8:end], dice) or raw(data[8:end], dice)
        return struct.pack("<Q", len(header)) + header + data[end:]
    return None


def _in_archive(data: bytes, dice: Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    store, chosen, kind = io.BytesIO(), dice.randrange(len(members)), dice.randrange(8)
    with zipfile.ZipFile(store, "w") as archive:
        for number, (info, content) in enumerate(members):
            if number == chosen:
                if kind == 0:
                    continue
                if kind == 1:
                    info.filename = dice.choice(["../../escaped", "/escaped", "", "x" * 60000, "a\0b", "é"])
                elif kind == 2:
                    archive.writestr(info.filename + ".more", content)
                else:
                    content = damaged(content, dice)
            archive.writestr(info, content)
    return store.getvalue()


def _json(data: bytes, dice: Random) -> bytes | None:
    """JSON with one value, or key, that is another."""
    try:
        whole = json.loads(data)
    except ValueError:
        return None
    place: Any = whole
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return None
        key = dice.choice(keys)
        inner = place[key]
        if isinstance(inner, str) and inner.startswith("{") and dice.random() < 0.7:  # JSON as text in JSON
            changed = _json(inner.encode(), dice)
            place[key] = inner if changed is None else changed.decode()
            break
        if isinstance(inner, dict | list) and inner and dice.random() < 0.8:
            place = inner
            continue
        kind = dice.randrange(4)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place[dice.choice(["x", "", key + "\n", "dtype", "shape"])] = place.pop(key)
        else:
            place[key] = dice.choice(VALUES)
        break
    return json.dumps(whole).encode()

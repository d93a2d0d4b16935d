"""What came of attacks: a CSV file for each part, to which a later call adds, and a summary of all."""

from __future__ import annotations

import collections
import csv
import json
from pathlib import Path

from quantizers.files import write_bytes
from tests.attacks.guard import HELD, Outcome

FIELDS = ("seed", "number", "name", "outcome", "seconds", "reason")


class Record:
    """The attacks of one part and seed, in ``PART-SEED.csv``.

    Args:
        folder: where it is, or goes.
        part: one of the parts.
        seed: of the attacks.
    """

    def __init__(self, folder: Path, part: str, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._seed = folder / f"{part}-{seed}.csv", seed
        if not self.path.exists():
            self._append(FIELDS)
        elif not self.path.read_bytes().endswith(b"\n"):  # a kill came while a row was written
            with self.path.open("a") as out:
                out.write("\n")

    def done(self) -> set[int]:
        """Numbers of the attacks that have been made; a row that was cut off by a kill is none."""
        return {int(row["number"]) for row in rows(self.path)}

    def add(self, number: int, name: str, outcome: Outcome) -> None:
        """Write one attack down at once, so that a kill loses no other."""
        self._append((self._seed, number, name, outcome.kind, f"{outcome.seconds:.3f}", outcome.reason[:500]))

    def _append(self, row: tuple[object, ...]) -> None:
        with self.path.open("a", newline="") as out:
            csv.writer(out).writerow(row)


def rows(path: Path) -> list[dict[str, str]]:
    """The whole rows of a record."""
    with path.open(newline="") as lines:
        return [row for row in csv.DictReader(lines) if row["reason"] is not None]


def summary(folder: Path) -> dict[str, dict[str, object]]:
    """By part: how many attacks were made, how many held, and of the others how many fell in which way."""
    found: dict[str, dict[str, object]] = {}
    for path in sorted(folder.glob("*-*.csv")):
        part, made = path.stem.rpartition("-")[0], rows(path)
        kinds = collections.Counter(row["outcome"] for row in made)
        one = found.setdefault(part, {"seeds": [], "tried": 0, "held": 0, "refused": 0, "fell": {}})
        one["seeds"] = [*one["seeds"], int(path.stem.rpartition("-")[2])]  # type: ignore[misc]
        one["tried"] += len(made)  # type: ignore[operator]
        one["held"] += sum(kinds[kind] for kind in HELD)  # type: ignore[operator]
        one["refused"] += kinds["refused"]  # type: ignore[operator]
        fell = collections.Counter(one["fell"])  # type: ignore[call-overload]
        fell.update({kind: count for kind, count in kinds.items() if kind not in HELD})
        one["fell"] = dict(fell)
    return found


def write_summary(folder: Path) -> dict[str, dict[str, object]]:
    """Write ``summary.json``: :func:`summary` of the folder, with every attack that fell."""
    found = summary(folder)
    fell = [row for path in sorted(folder.glob("*-*.csv")) for row in rows(path) if row["outcome"] not in HELD]
    write_bytes(folder / "summary.json", json.dumps({"parts": found, "fell": fell}, indent=2).encode() + b"\n")
    return found

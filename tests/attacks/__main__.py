"""Attacks the program, a part at a time, and writes down what held and what fell.

    python -m tests.attacks --part readers --seed 3 --count 2000 -o attacks

Attack N of a seed is always the same. A second call goes on where the first was stopped; --only N makes one attack again.
Ends with 1 where anything fell.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

from tests.attacks.guard import Guarded
from tests.attacks.record import Record, write_summary

# In a process of their own, which is ended where an attack takes too long; the others start programs, and wait for them.
GUARDED = ("readers", "artifacts", "runs")
PARTS = (*GUARDED, "kills", "faults", "leaks")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.attacks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100, help="attacks in all, with those of earlier calls (default: 100)")
    parser.add_argument("--minutes", type=float, default=55.0, help="begin none after that time (default: 55)")
    parser.add_argument("--only", type=int, help="make this one, and write nothing down")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("attacks"), help="folder of the records (default: attacks)"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="attacks-") as place:
        if options.only is not None:
            name, outcome = made(options.part, options.seed, [options.only], Path(place), None, None)[0]
            print(f"{name}: {outcome.kind} {outcome.reason}")
            return 0 if outcome.held else 1
        record = Record(options.output, options.part, options.seed)
        left = sorted(set(range(options.count)) - record.done())
        fell = [
            (name, outcome)
            for name, outcome in made(
                options.part, options.seed, left, Path(place), record, time.monotonic() + 60 * options.minutes
            )
            if not outcome.held
        ]
    for name, outcome in fell:
        print(f"{name}: {outcome.kind} {outcome.reason}")
    found = write_summary(options.output)[options.part]
    print(
        f"{options.part}: {found['tried']} tried, {found['held']} held ({found['refused']} refused), fell: {found['fell']}"
    )
    return 1 if found["fell"] else 0


def made(part, seed, numbers, place, record, deadline):
    """Make attacks; returns each one's name and outcome."""
    found = []

    def note(number, name, outcome):
        found.append((name, outcome))
        if record is not None:
            record.add(number, name, outcome)

    if part in GUARDED:
        with Guarded(part, seed, place) as guarded:
            for number in numbers:
                if deadline is not None and time.monotonic() > deadline:
                    break
                note(number, *guarded.attack(number))
    else:
        module = importlib.import_module(f"tests.attacks.{part}")
        for number in numbers:
            if deadline is not None and time.monotonic() > deadline:
                break
            note(number, *module.attack(seed, number, place))
    return found


if __name__ == "__main__":
    sys.exit(main())

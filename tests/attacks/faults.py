"""A disk that is full or read-only, and a clock that jumps: one line, exit code 2, what was there stays, a resume is whole.

The disk is a small tmpfs, mounted for each attack: that takes root. Elsewhere these attacks are told apart as "skipped".
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import quantizers
from analysis import store
from quantizers.files import PART_SUFFIX
from sweeps.commands import application
from tests.attacks.guard import BrokenPromiseError, Outcome, attempt
from tests.attacks.stand_in import sweep_file, without_ray

ENDINGS = [".npy", ".safetensors", ".txt", ".vec", ".bin", ".kv"]
TRIALS = 5


def attack(seed: int, number: int, place: Path) -> tuple[str, Outcome]:
    """Attack ``number`` of the seed."""
    dice = Random(f"faults {seed} {number}")
    ways = [_full_command, _full_sweep, _read_only, _clock, _full_sweep]
    way = ways[number % len(ways)]
    name = [way.__name__.strip("_").replace("_", " ")]
    with tempfile.TemporaryDirectory(dir=place) as folder:
        if way is not _clock and not _can_mount(Path(folder)):
            return name[0], Outcome("skipped", "a tmpfs cannot be mounted here")
        outcome = attempt(lambda: way(dice, Path(folder), name), Path(folder), reads=False)
    return ": ".join(name), outcome


@contextlib.contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of that size."""
    place = folder / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def _remount(place: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", place], check=True, capture_output=True)


def _can_mount(folder: Path) -> bool:
    if os.geteuid() != 0:
        return False
    with contextlib.suppress(OSError, subprocess.CalledProcessError), disk(folder, 64) as place:
        pass
    with contextlib.suppress(OSError):
        place.rmdir()
        return True
    return False


def _fill(place: Path, leave: int) -> Path:
    """Fill the disk but for some bytes (a page less or more)."""
    filler = place / "filler"
    with filler.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(4096))
    os.truncate(filler, max(0, filler.stat().st_size - leave))
    return filler


def _run(*words: object) -> Result:
    return CliRunner().invoke(application(), [str(word) for word in words], catch_exceptions=False)


def _refused(done: Result) -> None:
    if done.exit_code != 2 or len(done.stderr.strip().splitlines()) != 1:
        raise BrokenPromiseError("wrong", f"exit code {done.exit_code}, stderr {done.stderr[-300:]!r}")


def _no_parts(place: Path) -> None:
    left = [str(path.relative_to(place)) for path in place.rglob(f"*{PART_SUFFIX}")]
    if left:
        raise BrokenPromiseError("leftovers", f"{left}")


def _table(folder: Path) -> Path:
    np.save(folder / "t.npy", np.random.default_rng(0).standard_normal((400, 30)).astype(np.float32))
    (folder / "t.words").write_text("".join(f"w{row}\n" for row in range(400)))
    return folder / "t.npy"


def _command(dice: Random, folder: Path, place: Path) -> tuple[str, list[object], Path]:
    """A command that writes a file of 48 kB or more to ``place``: its name, its words, and the file."""
    kind = dice.choice(["convert", "compress", "convert", "report", "export"])
    if kind == "convert":
        target = place / f"x{dice.choice(ENDINGS)}"
        return f"convert {target.suffix}", ["convert", _table(folder), "-o", target], target
    if kind == "compress":
        target = place / "x.safetensors"
        return kind, ["compress", _table(folder), "--method", "identity", "--ratio", "1", "-o", target], target
    with without_ray():
        done = _run("run", sweep_file(folder))
    if done.exit_code != 0:
        raise BrokenPromiseError("wrong", f"a sweep on a whole disk: {done.output[-300:]}")
    if kind == "report":
        return kind, ["report", folder / "s", "-o", place / "r.html"], place / "r.html"
    return (
        kind,
        ["export", folder / "s", "--max-bytes", "10KB", "--force", "-o", place / "x.safetensors"],
        place / "x.safetensors",
    )


def _full_command(dice: Random, folder: Path, name: list[str]) -> None:
    """A file that does not fit: the old one is as it was."""
    with disk(folder, 256) as place:
        kind, words, target = _command(dice, folder, place)
        name.append(kind)
        old = dice.randbytes(1000) if dice.random() < 0.5 else None
        if old is not None:
            target.write_bytes(old)
        filler = _fill(place, dice.choice([0, 0, 4096]))
        done = _run(*words)
        if done.exit_code == 0 and target.stat().st_size < 8192:
            name.append("fitted")
            return
        _refused(done)
        if (target.read_bytes() if target.exists() else None) != old:
            raise BrokenPromiseError("lost", f"{kind}: {target.name} is another file")
        _no_parts(place)
        left = {path for path in place.iterdir()} - {filler, target}
        if left:
            raise BrokenPromiseError("leftovers", f"{sorted(path.name for path in left)}")


def _full_sweep(dice: Random, folder: Path, name: list[str]) -> None:
    """A disk that fills while a sweep writes to it; with room again, the sweep is resumed and whole."""
    with disk(folder, 2048) as place:
        file = sweep_file(place)
        # From the first write to beyond the last: what a run takes is some 100 kB.
        _fill(place, 4096 * dice.randrange(40))
        with without_ray() as ran:
            done = _run("run", file)
            name.append(f"exit code {done.exit_code} after {len(ran)} trials")
            if done.exit_code != 0:
                last = done.stderr.strip().splitlines()[-1:]
                if done.exit_code not in (1, 2) or not last or "No space left" not in done.output + done.stderr:
                    raise BrokenPromiseError("wrong", f"exit code {done.exit_code}: {done.output[-300:]!r} {last}")
            (place / "filler").unlink()
            kept = _kept(place / "s")
            ran.clear()
            again = _run("run", file)
        _whole(again, place / "s")
        if kept & set(ran):
            raise BrokenPromiseError("lost", f"{len(kept & set(ran))} results that were kept were measured again")
        _no_parts(place)


def _kept(run_dir: Path) -> set[str]:
    results = run_dir / "ledger" / "results"
    return {path.stem for path in results.glob("[0-9a-f]*.json")} if results.is_dir() else set()


def _whole(done: Result, run_dir: Path) -> None:
    rows = store.read_trials(run_dir).to_pylist() if done.exit_code == 0 else []
    if len(rows) != TRIALS or {row["status"] for row in rows} != {"ok"}:
        raise BrokenPromiseError("lost", f"exit code {done.exit_code}, {len(rows)} rows: {done.output[-300:]!r}")
    for row in rows:
        quantizers.read(run_dir / "artifacts" / f"{row['trial_key']}.safetensors")
    store.read_frontier(run_dir), store.read_scores(run_dir), store.read_run(run_dir)


def _read_only(dice: Random, folder: Path, name: list[str]) -> None:
    """A disk that may not be written to: commands that read work, those that write say so."""
    with disk(folder, 4096) as place:
        file = sweep_file(place)
        with without_ray():
            done = _run("run", file)
        if done.exit_code != 0:
            raise BrokenPromiseError("wrong", f"a sweep on a whole disk: {done.output[-300:]}")
        before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        _remount(place, "ro")
        run = place / "s"
        reads: list[list[Any]] = [["status", run], ["recommend", run], ["report", run, "-o", folder / "r.html"]]
        reads += [["export", run, "--max-bytes", "10KB", "-o", folder / "x.safetensors"], ["run", file, "--dry-run"]]
        writes: list[list[Any]] = [
            ["resume", run],
            ["run", file],
            ["report", run],
            ["convert", place / "t.npy", "-o", place / "x.npy"],
        ]
        writes += [
            ["export", run, "--max-bytes", "10KB", "-o", place / "x.safetensors"],
            ["run", file, "--set", "name=other"],
        ]
        words, writing = dice.choice([(one, False) for one in reads] + [(one, True) for one in writes])
        name.append(" ".join(Path(str(word)).name for word in words))
        with without_ray():
            done = _run(*words)
        if writing:
            _refused(done)
            if "ead-only" not in done.stderr:
                raise BrokenPromiseError("wrong", f"the reason is not said: {done.stderr!r}")
        elif done.exit_code != 0:
            raise BrokenPromiseError("wrong", f"exit code {done.exit_code}: {done.output[-300:]!r}")
        if before != {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}:
            raise BrokenPromiseError("wrong", "a read-only disk has changed")


def _clock(dice: Random, folder: Path, name: list[str]) -> None:
    """The machine's clock is set, by seconds to decades, to and fro, before each trial and between the commands."""
    shift, true, true_ns = [0.0], time.time, time.time_ns

    def jump() -> None:
        shift[0] = dice.choice([-1, 1]) * 10 ** dice.uniform(0, 9)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: max(0.0, true() + shift[0]))
        patch.setattr(time, "time_ns", lambda: max(0, true_ns() + int(1e9 * shift[0])))
        file, run = sweep_file(folder), folder / "s"
        with without_ray(jump) as ran:
            _whole(_run("run", file), run)
            for words in (["status", run], ["resume", run], ["recommend", run], ["report", run]):
                jump()
                done = _run(*words)
                if done.exit_code != 0:
                    raise BrokenPromiseError("wrong", f"{words[0]}: exit code {done.exit_code}: {done.output[-300:]!r}")
        if len(ran) != TRIALS:
            raise BrokenPromiseError("wrong", f"{len(ran)} trials ran, of {TRIALS}")
    name.append(f"last shift {shift[0]:.0f} s")

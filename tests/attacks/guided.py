"""Bytes that are led by what the readers do with them: atheris changes a file where that reaches code not yet seen.

    python -m tests.attacks.guided --target "table t.npy" --runs 20000 --seed 3 -o attacks/guided

What it has found stays in the folder, and is where the next call begins. Ends with 1 where something fell; the bytes are in
a file beside, whose name is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["trainables.tables", "sweeps.spec", "sweeps.cluster", "quantizers", "analysis.store"]
):
    from tests.attacks import artifacts, readers
    from tests.attacks.guard import attempt

SECONDS = 20  # that one read may take: what is watched here is half as fast


class FellError(Exception):
    """A reader did what it must not."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.attacks.guided", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=[*readers.targets(), "artifact"], required=True)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1, help="from 1 on")
    parser.add_argument("-o", "--output", type=Path, default=Path("attacks/guided"))
    options = parser.parse_args()
    corpus = options.output / options.target.replace(" ", "-").replace("/", "-")
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        read = _target(options.target, Path(folder), corpus)
        left = itertools.count(options.runs - 1, -1)

        def once(data: bytes) -> None:
            outcome = attempt(lambda: read(data), Path(folder))
            if not outcome.held:
                raise FellError(f"{options.target}: {outcome.kind} {outcome.reason}")
            if next(left) == 0:
                # libFuzzer ends the process while it holds Python's lock, and waits for Arrow's threads, which may want it.
                shutil.rmtree(folder, ignore_errors=True)
                os._exit(0)

        logging.disable()
        warnings.simplefilter("ignore")
        words = [
            f"-runs={options.runs}",
            f"-seed={options.seed}",
            f"-timeout={SECONDS}",
            "-rss_limit_mb=4000",
            "-verbosity=0",
        ]
        atheris.Setup([sys.argv[0], *words, f"-artifact_prefix={corpus}-", str(corpus)], once)
        with contextlib.suppress(SystemExit):  # libFuzzer ends the process by itself where something fell
            atheris.Fuzz()


def _target(name: str, folder: Path, corpus: Path):
    """What reads some bytes as the target's file; the whole files are put into the corpus."""
    if name == "artifact":
        for stem, content in artifacts.originals().items():
            (corpus / stem).write_bytes(content)
        path = folder / "t.safetensors"
        return lambda data: (path.write_bytes(data), artifacts._check(path, name, altered=False))
    place = readers._put(name, None, str(folder))
    file = (
        place
        if place.is_file()
        else max((one for one in folder.rglob("*") if one.is_file()), key=lambda one: one.stat().st_size)
    )
    (corpus / "whole").write_bytes(file.read_bytes())
    return lambda data: (file.write_bytes(data), readers.targets()[name][1](place))


if __name__ == "__main__":
    main()

"""Seconds and peak memory of reading a table, in a process of its own each time.

    python benchmarks/readers.py [ROWS COLUMNS]

The bar: 400,000 x 300 as text in under 60 s and under 3 times the array's memory. The ratio is (peak of the process - what
it held before reading) / array.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHILD = """
import json, re, sys, time
from pathlib import Path
from trainables.tables.formats import read_table
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
read_table("builtin:synthetic-10x4")
before, begin, busy = peak(), time.perf_counter(), time.process_time()
table = read_table(sys.argv[1])
print(json.dumps([time.perf_counter() - begin, time.process_time() - busy, (peak() - before) / table.vectors.nbytes]))
"""


def main() -> None:
    """Write the table in every format and read each back."""
    rows, columns = (int(text) for text in sys.argv[1:3]) if len(sys.argv) > 2 else (400_000, 300)
    from trainables.tables.formats import read_table
    from trainables.tables.writing import write_table

    table = read_table(f"builtin:synthetic-{rows}x{columns}")
    print(f"{rows} x {columns}: array of {4 * rows * columns / 1e6:.0f} MB")
    print(f"{'format':14} {'file MB':>8} {'write s':>8} {'read s':>8} {'cpu s':>8} {'peak / array':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for ending in (".txt", ".txt.gz", ".vec", ".bin", ".npy", ".safetensors"):
            path = Path(folder) / f"table{ending}"
            begin = time.perf_counter()
            if ending == ".txt.gz":
                with (Path(folder) / "table.txt").open("rb") as text, gzip.open(path, "wb", compresslevel=1) as packed:
                    shutil.copyfileobj(text, packed, 1 << 20)
            else:
                write_table(table, path)
            written = time.perf_counter() - begin
            run = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
            seconds, busy, ratio = json.loads(run.stdout)
            print(
                f"{ending:14} {path.stat().st_size / 1e6:8.0f} {written:8.1f} {seconds:8.1f} {busy:8.1f} {ratio:13.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

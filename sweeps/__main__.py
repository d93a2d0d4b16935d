"""``python -m sweeps`` is ``frontier``."""

from sweeps.cli import main

main()

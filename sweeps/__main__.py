"""``python -m sweeps`` is ``frontier``."""

from sweeps.commands import main

main()

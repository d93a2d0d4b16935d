import os
from collections.abc import Sequence

# Before anything imports ray or mlflow.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import hypothesis
import pytest
import torch

# The same examples in every run, and no deadline: machines that share their processors pause at any time.
hypothesis.settings.register_profile("tests", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    # One thread a test process: xdist runs one process a core, and sums have one order.
    torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device here")
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(skip)

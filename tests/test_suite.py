"""The suite itself."""

import pytest


@pytest.mark.xdist_group("one process")
def test_groups_stay_together(request: pytest.FixtureRequest) -> None:
    """What shares a sweep or a fit is sent to one process: where a version of pytest breaks that, tests pass and take twice
    as long."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("needs pytest -n")
    assert request.node.nodeid.endswith("@one process")

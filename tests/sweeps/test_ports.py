"""A Ray that a sweep has started is not heard of by other machines."""

import os
from pathlib import Path

import psutil
import pytest
import ray

pytestmark = [pytest.mark.xdist_group("warm ray"), pytest.mark.ray]


def test_rays_processes_listen_on_loopback_only(warm_ray: Path) -> None:
    ray.get(ray.remote(lambda: None).remote())  # a worker is there
    me = psutil.Process(os.getpid())
    heard: dict[str, set[str]] = {}
    for process in (me, *me.children(recursive=True)):
        for end in process.net_connections("inet"):
            if end.status == psutil.CONN_LISTEN:
                heard.setdefault(end.laddr.ip, set()).add(process.name())
    assert sum(len(names) for names in heard.values()) >= 3, heard
    assert heard.keys() <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, heard

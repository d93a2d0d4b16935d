"""Claims: one of many gets it, the dead lose it, the living keep it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from sweeps.storage import Folder, claims, processes
from sweeps.storage.claims import Claim
from sweeps.storage.processes import is_gone, is_here, note, number

ELSEWHERE = b"1 1 another-boot pid:[1]\nabc\nfar-away\n2026-01-01"


def test_of_many_at_the_same_moment_one_gets_it(tmp_path: Path) -> None:
    start, taken = threading.Barrier(16), []

    def take() -> None:
        claim = Claim(Folder(str(tmp_path)), "c")
        start.wait()
        taken.append(claim.take())

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1 and len(taken) == 16


def test_who_lost_a_claim_does_not_give_back_that_of_another(tmp_path: Path) -> None:
    storage = Folder(str(tmp_path))
    first, second = Claim(storage, "c"), Claim(storage, "c")
    assert first.take() and first.ours
    storage.delete("c")
    assert second.take() and not first.ours
    first.release()
    assert second.ours
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_says_who_has_it(tmp_path: Path) -> None:
    storage = Folder(str(tmp_path))
    claim = Claim(storage, "c")
    assert claim.holder() is None
    claim.take()
    holder = claim.holder()
    assert holder is not None and holder.known_alive and not holder.gone and str(os.getpid()) in str(holder)
    storage.write("c", ELSEWHERE)
    holder = claim.holder()
    assert holder is not None and not holder.known_alive and not holder.gone
    assert str(holder) == "process 1 on far-away, since 2026-01-01"
    storage.write("c", b"")  # just created: not yet written
    holder = claim.holder()
    assert holder is not None and not holder.known_alive and not holder.gone and "unknown host" in str(holder)


def test_a_touched_claim_is_not_taken_over_and_an_untouched_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(claims.time, "monotonic", lambda: now)
    storage, waiter = Folder(str(tmp_path)), Claim(Folder(str(tmp_path)), "c")
    storage.write("c", ELSEWHERE)
    for _ in range(10):  # touched now and then: never stale, however long it takes
        assert not waiter.take()
        now += 0.9 * claims.STALE_SECONDS
        os.utime(tmp_path / "c", ns=(int(now * 1e9), int(now * 1e9)))
    assert not waiter.take() and waiter.moved
    now += 1.1 * claims.STALE_SECONDS
    assert not waiter.take() and waiter.take()  # removed, then made


def test_a_claim_taken_over_since_we_looked_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, quick, slow = Folder(str(tmp_path)), Claim(Folder(str(tmp_path)), "c"), Claim(Folder(str(tmp_path)), "c")
    storage.write("c", f"{os.getpid()} 1 {processes._HERE}\nx".encode())  # its process is gone
    judged = claims.is_gone

    def meanwhile(left: str) -> bool:
        monkeypatch.setattr(claims, "is_gone", judged)
        assert not quick.take() and quick.take()
        return judged(left)

    monkeypatch.setattr(claims, "is_gone", meanwhile)
    assert not slow.take()
    assert quick.ours


def test_a_process_that_ended_is_gone_though_nobody_has_taken_it_in() -> None:
    code = "import sys; from sweeps.storage.processes import note; print(note()); sys.stdout.flush(); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdin is not None
    left = child.stdout.readline().strip()
    assert is_here(left) and not is_gone(left) and number(left) == str(child.pid)
    child.kill()
    deadline = time.monotonic() + 60
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert is_gone(left)
    child.communicate()
    assert is_gone(left)


def test_a_process_that_may_not_be_looked_at_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    left = note()

    def refuse(process: int) -> None:
        raise psutil.AccessDenied(process)

    monkeypatch.setattr(psutil, "Process", refuse)
    assert not is_gone(left)


def test_setting_the_clock_does_not_make_another_process_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    left, boot, there = note(), psutil.boot_time(), psutil.Process().create_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: there + 3600)
    assert not is_gone(left)

"""Sends a sweep's MLflow records while it runs: from a thread of its own, again and again until they are there.

MLflow takes a second to import, which the thread does, too: beside the start of Ray.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.record.intake import Observer
from trainables.records import TrialResult

if TYPE_CHECKING:
    from sweeps.record.tracking.files import Attachment
    from sweeps.record.tracking.runs import Runs

_LONGEST_PAUSE = 60.0
_LOOK_SECONDS = 0.2
_HURRIED_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class _Waiting:
    key: str
    result: TrialResult  # without its curves
    curves: bytes

    def unpacked(self) -> TrialResult:
        return dataclasses.replace(self.result, curves=json.loads(zlib.decompress(self.curves)))


class Tracker(Observer):
    """Sends a sweep's records to MLflow, so that no trial waits for the server.

    What cannot be sent waits, and is tried again with growing pauses; a server that is back gets it without anybody's doing.
    Curves wait packed, so that a long outage takes little memory. What MLflow refuses is a matter of that one record.

    Args:
        uri: of the tracking server or database.
        sweep: name of the sweep, and of the MLflow experiment.
        objectives: what the runs page shows beside the sizes.
        methods: of the whole sweep.
        pause: seconds until the first repeat; each is twice as long as the one before, a minute at the most.
        patience: seconds of failures after which the end of a sweep waits no longer; for a server that says nothing at all,
            twice as long.
    """

    def __init__(
        self,
        uri: str,
        sweep: str,
        objectives: Sequence[str],
        methods: Iterable[str] = (),
        *,
        pause: float = 1.0,
        patience: float = 10.0,
    ) -> None:
        if importlib.util.find_spec("mlflow") is None:
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")  # now, not in the thread
        self._made: Future[Runs] = Future()
        self._arguments = uri, sweep, tuple(objectives), tuple(methods)
        self._pause, self._patience = pause, patience
        # A database never hangs: where it fails it says so; where it is slow, this machine is.
        self._silence = 2 * patience if uri.startswith(("http://", "https://")) else 600.0
        self._waiting: dict[str, _Waiting] = {}
        self._changed = threading.Condition()
        self._closing = self._given_up = self._failing = self._connected = False
        self._why: str | None = None
        self._summary_left = self._hurried = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    @property
    def _runs(self) -> Runs:
        return self._made.result()

    @property
    def run_ids(self) -> dict[str, str]:
        """MLflow run of each trial key that has one."""
        return self._runs.run_ids

    @property
    def problem(self) -> str | None:
        """Why records are missing, or None; of use after :meth:`close`."""
        parts = []
        with self._changed:
            if count := len(self._waiting) + self._summary_left:
                parts.append(f"{count} {'record waits' if count == 1 else 'records wait'} ({self._why})")
            elif self._given_up:
                parts.append(str(self._why))
        refused = dict(self._runs.refused)
        if refused:
            key, why = next(iter(refused.items()))
            parts.append(f"{len(refused)} refused (the first, {key}: {why})")
        return "; ".join(parts) or None

    def ended(self, result: TrialResult) -> None:
        """See :class:`~sweeps.record.intake.Observer`."""
        self.log(result)

    def log(self, result: TrialResult) -> None:
        """Record a finished trial, some time soon; of several results of one trial the last one counts."""
        packed = zlib.compress(json.dumps(result.curves).encode())
        with self._changed:
            self._waiting.pop(key := str(result.row["trial_key"]), None)
            self._waiting[key] = _Waiting(key, dataclasses.replace(result, curves=[]), packed)
            self._changed.notify_all()

    def hurry(self) -> None:
        """Let the end of the sweep wait for MLflow for a moment only: this process is about to be killed."""
        self._hurried = True

    def close(self) -> None:
        """Send what waits, as long as that succeeds; without success for some seconds, leave it."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._wait_for(self._thread)

    def summarize(
        self,
        files: Sequence[Path],
        metrics: Mapping[str, float],
        *,
        finished_at: str,
        finished: bool,
        frontier: Sequence[Attachment] = (),
    ) -> None:
        """After :meth:`close`: one run that holds the sweep's tables, plot and report; see :meth:`Runs.summarize`."""
        self._summary_left = True
        if self._given_up:
            return  # trials first

        def send() -> None:
            said: dict[str, Any] = {"finished_at": finished_at, "finished": finished, "frontier": frontier}
            self._again(lambda: self._runs.summarize(files, metrics, **said))
            self._again(self._runs.end_left)
            self._summary_left = False

        thread = threading.Thread(target=send, daemon=True, name="mlflow-summary")
        thread.start()
        self._wait_for(thread)

    def _wait_for(self, thread: threading.Thread) -> None:
        begun = time.monotonic()
        while thread.is_alive():
            patience = self._patience if self._failing else self._silence
            now = time.monotonic()
            if now - max(begun, self._runs.last_answer) > patience or (self._hurried and now - begun > _HURRIED_SECONDS):
                break
            thread.join(_LOOK_SECONDS)
        if thread.is_alive():
            with self._changed:
                self._given_up = True  # a request that hangs is left to itself
                self._why = self._why or "MLflow does not answer"
                self._changed.notify_all()

    def _again(self, act: Callable[[], object]) -> None:
        """``act`` until it succeeds or is given up."""
        from sweeps.record.tracking.answers import UnreachableError

        while not self._given_up:
            try:
                act()
            except UnreachableError as error:
                self._why, self._failing = str(error), True
                time.sleep(self._pause)
            else:
                self._failing = False
                return

    def _work(self) -> None:
        try:
            from sweeps.record.tracking.answers import UnreachableError
            from sweeps.record.tracking.runs import AT_ONCE, Runs

            self._made.set_result(Runs(*self._arguments))
        except BaseException as error:
            self._made.set_exception(error)
            raise
        pause, at_once = self._pause, AT_ONCE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing or not self._connected)
                if self._given_up or (self._closing and self._connected and not self._waiting):
                    return
                results = list(itertools.islice(self._waiting.values(), at_once))
            try:
                self._runs.connect()
                self._connected = True
                self._runs.send_all([result.unpacked() for result in results])
            except UnreachableError as error:
                self._failed(results, str(error), pause)
                pause, at_once = min(2 * pause, _LONGEST_PAUSE), 1  # it may be one record all the same
            else:
                self._sent(results)
                pause, at_once = self._pause, min(2 * at_once, AT_ONCE)

    def _sent(self, results: Sequence[_Waiting]) -> None:
        with self._changed:
            self._failing = False
            for result in results:
                if self._waiting.get(result.key) is result and not self._given_up:
                    del self._waiting[result.key]  # else there is a later result by now

    def _failed(self, results: Sequence[_Waiting], why: str, pause: float) -> None:
        with self._changed:
            self._why, self._failing = why, True
            for result in results:
                if self._waiting.get(result.key) is result:
                    self._waiting[result.key] = self._waiting.pop(result.key)  # the others first
            if self._closing:
                self._changed.wait_for(lambda: self._given_up, self._pause)
            else:
                self._changed.wait_for(lambda: self._closing, pause)

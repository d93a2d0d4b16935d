"""A sweep under way: how far it is, the best so far for each budget, and when it will end.

The state is kept in ``status.json`` in the run directory, so that ``frontier status`` can show it from another terminal, or
another machine: it is written every few seconds, whether anything happened or not, and sent to where the run is kept.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console, RenderableType
from rich.live import Live

from analysis.text import counted
from quantizers import FitStep
from quantizers.errors import InputError
from quantizers.files import sealed_json, unsealed_json, write_bytes
from sweeps.record.display import one_line, render
from sweeps.record.estimate import Job, Remaining, Running
from sweeps.record.intake import Observer
from sweeps.storage.claims import STALE_SECONDS
from sweeps.storage.layout import STATUS_FILE
from sweeps.storage.processes import is_gone, is_here, note
from trainables.records import TrialResult, TrialSpec

_WRITE_SECONDS = 1.0
_LINE_SECONDS = 15.0  # between lines off a terminal; a minute once the sweep has run for ten
_LATER_LINE_SECONDS, _LATER = 60.0, 600.0
_BEAT_SECONDS, _SEND_SECONDS, _JOIN_SECONDS = 5.0, 10.0, 10.0
_FAILURES_SHOWN = 3
_NO = (0.0, 0.0)


class Progress(Observer):
    """Counts trials, shows them live on a terminal (one line now and then elsewhere), and writes ``status.json``.

    The driver's thread changes the state; a thread of this object writes it every few seconds, so that a long fit that
    reports nothing is known to be at work.

    Args:
        console: where to show it; None shows nothing.
        run_dir: where ``status.json`` goes.
        name: of the sweep.
        total: trials of the sweep, reused ones included, skipped ones not.
        skipped: configurations that are not run.
        planned: what is known of the trials by key, for the time that is left; none where a search chooses them.
        objective: (task.metric, direction) by which "best" is judged.
        data_dir: where the sweep's data is, for ``frontier resume``.
        sweep: the sweep file, resolved: a later edit of it is compared with what was run.
        table_digest: of the table: a later run is compared with it.
        send: sends ``status.json`` to where the run is kept, if that is elsewhere.
    """

    def __init__(
        self,
        console: Console | None,
        run_dir: Path,
        *,
        name: str,
        total: int,
        skipped: int,
        objective: tuple[str, str],
        planned: Mapping[str, Job] | None = None,
        data_dir: Path | None = None,
        sweep: Mapping[str, Any] | None = None,
        table_digest: str | None = None,
        send: Callable[[], None] | None = None,
    ) -> None:
        self._console = console
        self._path = run_dir / STATUS_FILE
        self._objective = objective
        self._slots = 1
        self._started = time.time()
        self._last_write = self._last_line = 0.0
        self._remaining, self._all_known = Remaining(planned or {}), bool(planned)
        self._live: Live | None = None
        self._send = send
        self._lock = threading.RLock()  # of the state and its file; nothing is printed or sent while it is held
        self._ended = threading.Event()
        self._beats = [threading.Thread(target=self._beat, args=(_BEAT_SECONDS, self._write), daemon=True)]
        if send is not None:
            self._beats.append(threading.Thread(target=self._beat, args=(_SEND_SECONDS, send), daemon=True))
        self.state: dict[str, Any] = {
            "name": name,
            "phase": "starting",
            "pid": os.getpid(),
            "process": note(),
            "data_dir": None if data_dir is None else str(data_dir.absolute()),
            "started_at": self._started,
            "updated_at": self._started,
            "total": total,
            "done": 0,
            "failed": 0,
            "reused": 0,
            "skipped": skipped,
            "running": {},
            "objective": objective[0],
            "best": {},
            "frontier": [],
            "failures": [],
            "seconds_left": None,
            "sweep": sweep,
            "table_digest": table_digest,
        }

    def __enter__(self) -> Progress:
        self._write()
        if self._console is not None and self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self._rendered, refresh_per_second=4)
            self._live.start()
        for thread in self._beats:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        for thread in self._beats:
            # So that nothing older follows what is written or sent now; Ctrl-C does not wait for a storage that is away.
            thread.join(None if kind is None else _JOIN_SECONDS)
        if self._live is not None:
            self._live.stop()
        if kind is not None:
            self.phase("interrupted")
            if self._send is not None:
                with contextlib.suppress(Exception):
                    self._send()

    def _beat(self, seconds: float, act: Callable[[], None]) -> None:
        while not self._ended.wait(seconds):
            with contextlib.suppress(Exception):  # the next time will do
                act()

    def _rendered(self) -> RenderableType:
        with self._lock:
            state = copy.deepcopy(self.state)
        return render(state)

    def phase(self, phase: str) -> None:
        """What the sweep is doing now, in one word."""
        with self._lock:
            self.state["phase"] = phase
            if phase == "reporting":  # then no trial runs; some may have been broken off
                self.state["running"] = {}
            self._write()

    def set_slots(self, slots: int) -> None:
        """How many trials run at the same time, at the most; for the time that is left."""
        with self._lock:
            self._remaining.use(self._slots, time.time())
            self._slots = max(1, slots)

    def started(self, spec: TrialSpec) -> None:
        """A trial has started."""
        with self._lock:
            if self.state["phase"] == "starting":
                self.state["phase"] = "running"
            one = {"label": f"{spec.method} seed {spec.seed}", "fraction": 0.0, "phase": "", "phases": 0}
            self.state["running"][spec.key] = {**one, "method": spec.method, "started_at": time.time()}
            self._remaining.use(self._slots, time.time(), begins=True)
            self._remaining.no_longer_left(spec.key)
        self._changed()

    def set_aside(self, spec: TrialSpec) -> None:
        """A trial was lost; it will start again later."""
        with self._lock:
            if self.state["running"].pop(spec.key, None) is not None:
                self._remaining.left_again(spec.key)
        self._changed()

    def say(self, line: str) -> None:
        """Print a line off a terminal; on one, what is shown live says enough."""
        if self._console is not None and self._live is None:
            self._console.print(line, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Some time has passed: off a terminal, a line now and then says how far the trials are."""
        if self._console is None or self._live is not None:
            return
        now = time.time()
        if now - self._last_line >= (_LINE_SECONDS if now - self._started < _LATER else _LATER_LINE_SECONDS):
            self._print_line()

    def _print_line(self) -> None:
        with self._lock:
            self._last_line = time.time()
            self._estimate()
            line = one_line(self.state, self._last_line)
        self.say(line)

    def ending(self, grace_seconds: float | None = None) -> None:
        """The sweep is to end: what runs goes on to its end, or for so many seconds."""
        self.phase("ending")
        if self._console is not None:
            trials = counted(len(self.state["running"]), "running trial")
            until = "finish first" if grace_seconds is None else f"get {grace_seconds:g} s more"
            again = " Ctrl-C again stops at once." if grace_seconds is None else ""
            self._console.print(f"Ending: {trials} may {until}, then the report is written.{again}")

    def stepped(self, spec: TrialSpec, step: FitStep) -> None:
        """A trial is this far."""
        with self._lock:
            running = self.state["running"].get(spec.key)
            if running is None:
                return
            if not running["phases"] or step.fraction < running["fraction"]:  # what a trial does goes from 0 to 1, each
                running["phases"] += 1
            running["phase"], running["fraction"] = step.phase, step.fraction
            running["last"] = (time.time() - running["started_at"], step.fraction)
            running.setdefault("first", running["last"])
        self._changed()

    def ended(self, result: TrialResult) -> None:
        """A trial has ended, or was found in the ledger."""
        row = result.row
        with self._lock:
            running = self.state["running"].pop(row["trial_key"], None)
            if running is not None:
                self._remaining.ended(row["trial_key"], row, time.time() - running["started_at"])
            else:
                self._remaining.no_longer_left(row["trial_key"])
            self.state["failed" if row["status"] == "failed" else "done"] += 1
            self.state["reused"] += bool(row.get("reused"))
            if row["status"] == "failed":
                self.state["failures"] = [*self.state["failures"], f"{row['quantizer']}: {row['reason']}"][-_FAILURES_SHOWN:]
            self._note_best(result)
        self._changed()

    def _note_best(self, result: TrialResult) -> None:
        row, metric = result.row, self._objective[0]
        value = next((s["value"] for s in result.scores if f"{s['task']}.{s['metric']}" == metric), None)
        if value is None or row["status"] != "ok":
            return
        sign = 1 if self._objective[1] == "min" else -1
        dense = row["dense_bytes"]
        entry = {"value": value, "quantizer": row["quantizer"], "payload_bytes": row["payload_bytes"]}
        point = {**entry, "ratio": dense / row["payload_bytes"]}
        front = self.state["frontier"]
        size = point["payload_bytes"]
        if not any(one["payload_bytes"] <= size and sign * one["value"] <= sign * value for one in front):
            kept = [one for one in front if one["payload_bytes"] < size or sign * one["value"] < sign * value]
            self.state["frontier"] = sorted([*kept, point], key=lambda one: -one["payload_bytes"])
        budget = row["budget_bytes"]
        best = None if budget is None else self.state["best"].get(str(budget))
        if budget is not None and (best is None or sign * value < sign * best["value"]):
            self.state["best"][str(budget)] = {**entry, "ratio": dense / budget}

    def _changed(self) -> None:
        left = self.state["total"] - self.state["done"] - self.state["failed"]
        if time.time() - self._last_write >= _WRITE_SECONDS or left == 0:
            self._write()
        if left == 0 and self._console is not None and self._live is None:
            self._print_line()
        else:
            self.tick()

    def _estimate(self) -> None:
        state, now = self.state, time.time()
        running = [
            Running(key, one["method"], now - one["started_at"], one["phases"], one.get("first", _NO), one.get("last", _NO))
            for key, one in state["running"].items()
        ]
        others = state["total"] - state["done"] - state["failed"] - len(running)
        self._remaining.use(self._slots, now)
        state["seconds_left"] = self._remaining.seconds(running, self._slots, 0 if self._all_known else max(0, others))

    def _write(self) -> None:
        with self._lock:
            self._estimate()
            self._last_write = self.state["updated_at"] = time.time()
            try:
                write_bytes(self._path, sealed_json(self.state))
            except InputError:
                if self._path.parent.is_dir():
                    raise
                # The run's folder is gone: the sweep's end says what is left of it.


_Count = Annotated[int, Field(ge=0, le=2**53)]
_Moment = Annotated[float, Field(ge=0, le=1e12)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Running(_Part):
    label: str
    fraction: Annotated[float, Field(ge=0, le=1)]
    phase: str = ""
    started_at: _Moment


class _Point(_Part):
    value: float
    quantizer: str
    payload_bytes: _Count
    ratio: float


class _State(_Part):
    """What is in ``status.json``; older versions lack what has a default."""

    name: str
    phase: str
    pid: int
    started_at: _Moment
    updated_at: _Moment
    total: _Count
    done: _Count
    failed: _Count
    reused: _Count = 0
    skipped: _Count = 0
    running: dict[str, _Running] = {}
    objective: str = ""
    best: dict[Annotated[str, Field(pattern=r"^[0-9]{1,18}$")], _Point] = {}
    frontier: list[_Point] = []
    failures: list[str] = []
    seconds_left: _Moment | None = None
    process: str = ""
    data_dir: str | None = None
    sweep: dict[str, Any] | None = None
    table_digest: str | None = None


def read_status(run_dir: Path) -> dict[str, Any] | None:
    """The state that a sweep last wrote into ``run_dir``; None where there is none, or a damaged one."""
    try:
        return _State.model_validate(unsealed_json((run_dir / STATUS_FILE).read_bytes())).model_dump()
    except (OSError, ValueError):
        return None


def is_alive(state: Mapping[str, Any]) -> bool:
    """Whether the sweep that wrote ``state`` is still at work (on this machine), or wrote lately (on another).

    Lately is as long as :mod:`sweeps.storage.claims` has it: what is not alive here, another driver may take over.
    """
    process = state.get("process", "")
    if state["phase"] in ("finished", "interrupted") or is_gone(process):
        return False
    return is_here(process) or time.time() - float(state["updated_at"]) < STALE_SECONDS

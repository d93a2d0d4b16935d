"""The state of a sweep as it is shown on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis.text import counted

_POINTS_SHOWN = 12
_RUNNING_SHOWN = 4


def one_line(state: Mapping[str, Any], now: float) -> str:
    """The state in one line; ``now`` in seconds since the epoch."""
    left = state["seconds_left"]
    parts = [f"{state['done'] + state['failed']}/{counted(state['total'], 'trial')}"]
    parts += [f"{state[name]} {name}" for name in ("failed", "reused", "skipped") if state[name]]
    if running := list(state["running"].values()):
        shown = [how_far(one, now) for one in running[:_RUNNING_SHOWN]]
        more = len(running) - len(shown)
        parts.append(f"{len(running)} running ({'; '.join([*shown, *([f'{more} more'] if more else [])])})")
    elif state["phase"] == "starting":
        parts.append("no worker is ready yet")
    if left is not None and state["done"] + state["failed"] < state["total"]:
        parts.append(f"about {duration(left)} left")
    return f"{state['name']}: " + ", ".join(parts)


def how_far(one: Mapping[str, Any], now: float) -> str:
    """How far a trial is that runs, and for how long it has run: ``dccl seed 0: train 45%, 2 min 05 s``."""
    reported = f"{one['phase']} {one['fraction']:.0%}, ".lstrip() if one["fraction"] or one.get("phase") else ""
    return f"{one['label']}: {reported}{duration(max(0.0, now - one['started_at']))}"


def render(state: Mapping[str, Any]) -> RenderableType:
    """The state as it is shown live."""
    ended = state["done"] + state["failed"]
    head = Table.grid(padding=(0, 1))
    head.add_row(
        Text(state["name"], style="bold"),
        ProgressBar(total=max(1, state["total"]), completed=ended, width=40),
        f"{ended}/{state['total']}",
        Text(state["phase"], style="dim"),
    )
    facts = (
        f"{len(state['running'])} running, {state['failed']} failed, {state['reused']} reused, {state['skipped']} skipped"
    )
    left = ""
    if state["seconds_left"] is not None and ended < state["total"] and state["phase"] in ("starting", "running", "ending"):
        left = f", about {duration(state['seconds_left'])} left"
    parts: list[RenderableType] = [
        head,
        Text(f"{facts}, {duration(state['updated_at'] - state['started_at'])} so far{left}"),
    ]
    running = list(state["running"].values())
    if running:
        shown = "; ".join(how_far(one, state["updated_at"]) for one in running[:_RUNNING_SHOWN])
        parts.append(Text("now: " + shown + (" ..." if len(running) > _RUNNING_SHOWN else ""), style="dim"))
    if state["best"]:
        parts.append(best_table(state["best"], state["objective"]))
    if state.get("frontier"):
        parts.append(frontier_table(state["frontier"], state["objective"]))
    parts += [Text(f"failed: {one}", style="red") for one in state.get("failures", ())]
    return Group(*parts)


def frontier_table(front: Sequence[Mapping[str, Any]], objective: str) -> Table:
    """The frontier so far: nothing as small is better. Of a long one, points evenly spread."""
    if len(front) > _POINTS_SHOWN:
        last = len(front) - 1
        front = [front[round(place * last / (_POINTS_SHOWN - 1))] for place in range(_POINTS_SHOWN)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("ratio", "payload (bytes)", "frontier so far", objective):
        table.add_column(title, justify="left" if title == "frontier so far" else "right")
    for one in front:
        table.add_row(f"x{one['ratio']:.1f}", f"{one['payload_bytes']:,}", one["quantizer"], f"{one['value']:.4g}")
    return table


def best_table(best: Mapping[str, Mapping[str, Any]], objective: str) -> Table:
    """The best so far for each budget."""
    table = Table(box=None, pad_edge=False, header_style="dim")  # 80 columns hold the longest of our objectives
    for title in ("ratio", "budget (bytes)", "best so far", objective, "payload"):
        table.add_column(title, justify="left" if title == "best so far" else "right")
    for budget in sorted(best, key=int, reverse=True):
        one = best[budget]
        cells = (
            f"x{one['ratio']:.0f}",
            f"{int(budget):,}",
            one["quantizer"],
            f"{one['value']:.4g}",
            f"{one['payload_bytes']:,}",
        )
        table.add_row(*cells)
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

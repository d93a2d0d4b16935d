"""What to take, first of all: the pick of each frontier, and the command that exports it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from analysis import text
from analysis.answer import Answer, answers, change_over_seeds, evidence, lucky, signed
from analysis.recommend import Recommendation, recommend
from analysis.report.panel import Panel, Report
from analysis.report.units import Unit


class Pick(Panel):
    """One sentence for each run: the first objective's pick; the other objectives' below it."""

    name = "pick"
    title = "The pick"
    order = 10

    def html(self, report: Report) -> Markup | None:
        """Sentences and commands; nothing where no trial succeeded."""
        picks = []
        for info, run_dir in zip(report.runs.infos, report.runs.dirs, strict=True):
            found = answers(recommend(run_dir), "")
            if found:
                told = [_told(answer, run_dir, report.size) for answer in found]
                picks.append({"run": info.get("name"), "first": told[0], "others": told[1:]})
        return report.render("panels/pick.html.j2", picks=picks) if picks else None


def _told(answer: Answer, run_dir: Path, size: Unit) -> dict[str, Any]:
    """The parts of what the page says of one pick."""
    pick = answer.pick
    key = pick.trial_keys[0] if pick.trial_keys else ""
    return {
        "pick": pick,
        "why": answer.why,
        "config": text.config_label(json.dumps(dict(pick.config)), given=True),
        "change": None if pick.drop is None else signed(-pick.drop, pick.direction),
        "over_seeds": change_over_seeds(pick),
        "lucky": lucky(pick),
        "close": [f"{_named(one, size)}, {text.number(one.value)}" for one in answer.close],
        "evidence": evidence(answer, lambda point: _named(point, size)),
        "command": f"frontier export {shlex.quote(str(run_dir))} --trial {key} -o small.safetensors",
    }


def _named(point: Recommendation, size: Unit) -> str:
    times = "" if point.compression_ratio is None else f" ({text.ratio(point.compression_ratio)})"
    return f"{point.quantizer} with {size(point.payload_bytes)}{times}"

"""Single words under the pick: which suffer, and whose neighbours change."""

from __future__ import annotations

from importlib import resources

from markupsafe import Markup

from analysis.report.panel import Panel, Report, script_json
from analysis.report.word_view import MAX_FILE_BYTES, word_view


class Words(Panel):
    """A word that the reader types, its neighbours before and after; the words that suffer most.

    The page carries the pick's compressed file, where it is small, and rebuilds its rows itself.
    """

    name = "words"
    title = "Word by word"
    order = 70

    def html(self, report: Report) -> Markup:
        """The view's place and data; ``words.js`` fills it, with the JavaScript reader in the same script."""
        view = word_view(report.runs)
        if isinstance(view, str):
            return Markup("<p class='soft'>{}</p>").format(view)
        reader = resources.files("analysis.report").joinpath("templates/reader.mjs").read_text(encoding="utf-8")
        return report.render(
            "panels/words.html.j2",
            view=view,
            data=script_json(view.page_data()),
            reader=Markup(reader),
            max_file_bytes=MAX_FILE_BYTES,
        )

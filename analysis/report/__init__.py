"""The report: panels, plots, the page."""

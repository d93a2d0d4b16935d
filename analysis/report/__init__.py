"""The report: plots, panels, the page."""

"""The panels of the report: one module each, found by :mod:`analysis.report.panel`. Nothing lists them by name."""

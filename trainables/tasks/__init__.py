"""Downstream tasks: one task, one module."""

"""Sweeps on somebody's cluster."""

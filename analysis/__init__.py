"""Reads what sweeps wrote: schema, store, Pareto frontier, plots, report."""

"""Readers of the tables of other programs, a module for each family of formats."""

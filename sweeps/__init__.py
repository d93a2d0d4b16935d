"""Sweeps over quantizer type x code budget: configuration, Ray Tune runner, ledger, tracking, command line."""

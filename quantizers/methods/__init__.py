"""Compression methods: one module (or, for methods that train networks, one package) each, and nothing else."""

"""Compositional codes learned end to end (Shu & Nakayama 2018)."""

from quantizers.methods.dccl.method import DCCL

__all__ = ["DCCL"]

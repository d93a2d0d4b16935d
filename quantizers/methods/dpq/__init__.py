"""Differentiable product quantization (Chen et al. 2020)."""

from quantizers.methods.dpq.method import DPQ

__all__ = ["DPQ"]

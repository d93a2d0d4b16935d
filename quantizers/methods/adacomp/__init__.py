"""Adaptive compression: code-books of several lengths and a selector (Kim et al. 2020)."""

from quantizers.methods.adacomp.method import AdaComp

__all__ = ["AdaComp"]

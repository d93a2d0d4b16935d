"""Dependent (trellis-coded) quantization with an entropy coder."""

from quantizers.methods.trellis.method import Trellis

__all__ = ["Trellis"]

"""Reads the compressed embedding tables of embedding-frontier with NumPy alone.

>>> import embedding_frontier_reader
>>> table = embedding_frontier_reader.load("small.safetensors")  # doctest: +SKIP
>>> table["dog"].shape  # doctest: +SKIP
(50,)
"""

from embedding_frontier_reader.table import CompressedTable, ReadError, load

__all__ = ["CompressedTable", "ReadError", "load"]

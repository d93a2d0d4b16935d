"""A compressed table as an ONNX model: int64 ids of any shape in, float32 rows out, and no more bytes than the file had.

Shapes: N rows, D columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quantizers.base import Quantizer
from quantizers.errors import InputError
from quantizers.exporting.graph import IR_VERSION, OPSET, Graph, Value, onnx_package
from quantizers.exporting.rows import METHODS, REFUSED, metadata
from quantizers.files import write_bytes

WORDS_SUFFIX = ".words"


def refusal(method: str) -> str | None:
    """Why the method called ``method`` can not be written, or None where it can."""
    if method in METHODS:
        return None
    return REFUSED.get(method, "nobody has written its graph (quantizers/exporting/rows.py)")


def write_onnx(quantizer: Quantizer, path: str | Path) -> None:
    """Write a model with the input ``ids`` and the output ``vectors``, atomically.

    ``ids`` are int64 of any shape (...), ``vectors`` (..., D) float32. An id that is negative or not below N is an error.

    Args:
        quantizer: a fitted quantizer.
        path: the file to write.

    Raises:
        InputError: the method is refused (:func:`refusal`), the package onnx is not installed, the model is larger than
            2 GiB, or the file cannot be written.
    """
    reason = refusal(quantizer.name)
    if reason is not None:
        raise InputError(f"{path}: {quantizer.name} cannot be an ONNX model: {reason}.")
    onnx = onnx_package()
    helper, kinds = onnx.helper, onnx.TensorProto
    graph = Graph()
    ids = graph.input("ids")
    rows = METHODS[quantizer.name](graph, quantizer, _checked(graph, ids.reshape(-1), quantizer.num_embeddings))
    sides = graph.node("Shape", [ids], np.dtype("int64"))
    width = graph.constant(np.array([quantizer.embedding_dim], dtype=np.int64))
    shape = graph.node("Concat", [sides, width], sides.dtype, axis=0)
    graph.node("Reshape", [rows, shape], rows.dtype, output="vectors", allowzero=1)
    given = helper.make_tensor_value_info("ids", kinds.INT64, ["n"])
    made = helper.make_tensor_value_info("vectors", kinds.FLOAT, ["n", quantizer.embedding_dim])
    whole = helper.make_graph(graph.nodes, "embedding", [given], [made], graph.initializers)
    model = helper.make_model(
        whole, producer_name="embedding-frontier", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    helper.set_model_props(model, metadata(quantizer))
    onnx.checker.check_model(model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")  # any number of sides, which runtimes take and the checker does not
    write_bytes(path, model.SerializeToString(), "the ONNX model")


def _checked(graph: Graph, ids: Value, num_embeddings: int) -> Value:
    """``ids`` (B,), such that one outside [0, N) stops the look-up: some methods would rebuild a row for it."""
    inside = graph.node("And", [graph.constant(np.array(-1)) < ids, ids < num_embeddings], np.dtype("bool"))
    outside = graph.node("Not", [inside], inside.dtype).to("int64")
    return ids + graph.constant(np.zeros(1, dtype=np.int64))[outside]  # 1 is no place of a list of one

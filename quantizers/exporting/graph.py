"""A small writer of ONNX graphs: values with the operators of Python, and the few operators of ONNX that rows need.

Integers stay below 2^63 everywhere: ONNX has no arithmetic that wraps, and no shifts of signed numbers, so that bits are
taken by division and remainder.

Shapes: B ids of a look-up, L bytes a row, M codes a row, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantizers.errors import InputError

OPSET, IR_VERSION = 18, 8  # both of 2023; ONNX Runtime 1.14 and later read them
_MOST_BYTES = (1 << 31) - (1 << 20)  # a protocol buffer holds no more than 2 GiB
_FLOAT, _INT32, _INT64, _BOOL = (np.dtype(kind) for kind in ("float32", "int32", "int64", "bool"))


class Value:
    """A tensor of the graph. Arithmetic takes other values, arrays, and numbers, which become of its own type."""

    def __init__(self, graph: Graph, name: str, dtype: np.dtype[Any]) -> None:
        self.graph, self.name, self.dtype = graph, name, dtype

    def _with(self, kind: str, other: Value | NDArray[Any] | float, dtype: np.dtype[Any] | None = None) -> Value:
        if not isinstance(other, Value):
            other = self.graph.constant(np.asarray(other, dtype=self.dtype))
        return self.graph.node(kind, [self, other], dtype or self.dtype)

    def __add__(self, other: Value | NDArray[Any] | float) -> Value:
        return self._with("Add", other)

    def __sub__(self, other: Value | NDArray[Any] | float) -> Value:
        return self._with("Sub", other)

    def __mul__(self, other: Value | NDArray[Any] | float) -> Value:
        return self._with("Mul", other)

    def __floordiv__(self, other: Value | NDArray[Any] | int) -> Value:
        return self._with("Div", other)  # of integers, which are not negative here

    def __mod__(self, other: Value | NDArray[Any] | int) -> Value:
        return self._with("Mod", other)

    def __xor__(self, other: Value | int) -> Value:
        return self._with("BitwiseXor", other)

    def __lt__(self, other: Value | NDArray[Any] | float) -> Value:
        return self._with("Less", other, _BOOL)

    def __matmul__(self, other: Value) -> Value:
        return self._with("MatMul", other)

    def equals(self, other: Value | NDArray[Any] | int) -> Value:
        """Where both are the same, as booleans."""
        return self._with("Equal", other, _BOOL)

    def at_most(self, other: int) -> Value:
        """The smaller of itself and a number."""
        return self._with("Min", other)

    def __getitem__(self, ids: Value) -> Value:
        """Rows ``ids``, integers of any shape."""
        return self.graph.node("Gather", [self, ids], self.dtype, axis=0)

    def columns(self, places: NDArray[np.int64]) -> Value:
        """Of (B, L) the columns ``places`` (M,): (B, M)."""
        return self.graph.node("Gather", [self, self.graph.constant(places)], self.dtype, axis=1)

    def first_columns(self, count: int) -> Value:
        """Of (B, L) the first columns: (B, count)."""
        ends = [self.graph.constant(np.array([number], dtype=np.int64)) for number in (0, count, 1)]
        return self.graph.node("Slice", [self, *ends], self.dtype)

    def to(self, dtype: str) -> Value:
        """In another type."""
        target = np.dtype(dtype)
        if target == self.dtype:
            return self
        return self.graph.node("Cast", [self], target, to=onnx_package().helper.np_dtype_to_tensor_dtype(target))

    def reshape(self, *sides: int) -> Value:
        """In another shape; -1 for the side that follows from the others."""
        return self.graph.node("Reshape", [self, self.graph.constant(np.array(sides, dtype=np.int64))], self.dtype)

    def total(self, axis: int) -> Value:
        """The sum along an axis, which goes."""
        axes = self.graph.constant(np.array([axis], dtype=np.int64))
        return self.graph.node("ReduceSum", [self, axes], self.dtype, keepdims=0)

    def sums_before(self, axis: int) -> Value:
        """Along an axis, for each place the sum of all before it."""
        along = self.graph.constant(np.array(axis, dtype=np.int64))
        return self.graph.node("CumSum", [self, along], self.dtype, exclusive=1)


class Graph:
    """Nodes and stored tensors of one model.

    Attributes:
        nodes: in the order in which they are computed.
        initializers: the stored tensors.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._small: dict[tuple[Any, ...], Value] = {}
        self._stored = 0

    def input(self, name: str) -> Value:
        """What the model is given: int64 of any shape."""
        return Value(self, name, _INT64)

    def node(
        self, kind: str, inputs: Sequence[Value], dtype: np.dtype[Any], *, output: str | None = None, **more: Any
    ) -> Value:
        """What an operator of ONNX makes of ``inputs``; ``more`` are its attributes."""
        name = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx_package().helper.make_node(kind, [value.name for value in inputs], [name], **more))
        return Value(self, name, dtype)

    def constant(self, array: NDArray[Any]) -> Value:
        """A tensor that the model holds; equal small ones are held once."""
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 4096 else None
        if key in self._small:
            return self._small[key]
        helper = onnx_package().helper
        value = self._keep(array.tobytes(), helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.dtype)
        if key is not None:
            self._small[key] = value
        return value

    def stored(self, tensor: Tensor) -> Value:
        """A tensor of the compressed file, in its own type (bfloat16 too)."""
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype != torch.bfloat16:
            return self.constant(tensor.numpy())
        raw = tensor.view(torch.uint8).numpy().tobytes()
        kind = onnx_package().TensorProto.BFLOAT16
        return self._keep(raw, kind, tuple(tensor.shape), np.dtype("V2"))

    def _keep(self, raw: bytes, kind: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Value:
        self._stored += len(raw)
        if self._stored > _MOST_BYTES:
            raise InputError("an ONNX file holds at most 2 GiB, and these tensors are larger.")
        name = f"tensor_{len(self.initializers)}"
        self.initializers.append(onnx_package().helper.make_tensor(name, kind, shape, raw, raw=True))
        return Value(self, name, dtype)

    def arange(self, count: int) -> Value:
        """0 .. count - 1, int64; not stored."""
        return self.node("Range", [self.constant(np.array(end, dtype=np.int64)) for end in (0, count, 1)], _INT64)

    def where(self, condition: Value, this: Value, other: float) -> Value:
        """``this`` where the condition holds, else a number."""
        return self.node("Where", [condition, this, self.constant(np.array(other, dtype=this.dtype))], this.dtype)

    def side_by_side(self, parts: Sequence[Value]) -> Value:
        """(B, ..) one beside the other."""
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, parts[0].dtype, axis=1)

    def unpack(self, packed: Value, widths: NDArray[np.int64], length: int) -> Value:
        """Codes of ``widths`` (M,) bits each, 0 to 16, one after another: (B, L) uint8 -> (B, M) int32."""
        if (widths == 8).all():
            return packed.to("int32")
        start = np.cumsum(widths) - widths
        first, shift = start >> 3, start & 7
        octets = packed.to("int32")
        total: Value | None = None
        for byte in range(int(max(shift + widths) + 7) // 8):
            # What lies behind a code's last byte is cut off below: any byte may stand for one behind the row's end.
            part = octets.columns(np.minimum(first + byte, length - 1)) * (1 << 8 * byte)
            total = part if total is None else total + part
        if total is None:  # no code has a bit
            total = octets.columns(np.zeros(len(widths), dtype=np.int64)) * 0
        return total // (1 << shift) % (1 << widths)

    def read_stream(self, packed: Value, length: int, positions: Value, bits: int) -> Value:
        """Single codes of a stream of ``length`` bytes without gaps: positions of any shape, int64 -> the same, int64."""
        bit = positions * bits
        first, shift = bit // 8, bit % 8
        total: Value | None = None
        for byte in range((bits + 14) // 8):
            part = packed[(first + byte).at_most(length - 1)].to("int64") * (1 << 8 * byte)
            total = part if total is None else total + part
        assert total is not None
        powers = self.constant(np.array([1 << power for power in range(8)], dtype=np.int64))
        return total // powers[shift] % (1 << bits)


def onnx_package() -> Any:
    """The package onnx, which is needed for nothing else.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnx
        import onnx.helper
    except ModuleNotFoundError:
        raise InputError("ONNX files need the package onnx: pip install 'embedding-frontier[onnx]'.") from None
    return onnx

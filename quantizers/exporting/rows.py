"""How each method's rows are rebuilt in an ONNX graph, from the same bytes that its compressed file holds.

What is needed for every look-up and follows from stored tensors alone (where rows begin) is part of the graph: ONNX Runtime
works it out once, when a model is loaded.

Shapes: N rows, D columns, B ids, M codes a row, K codewords a codebook, r axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantizers.base import Quantizer
from quantizers.coding.bits import bits_for
from quantizers.coding.streams import unpack_stream
from quantizers.exporting.graph import Graph, Value
from quantizers.methods.transform import gaussian_levels

Method = Callable[[Graph, Quantizer, Value], Value]
_WORD = 1 << 32


def _codes(graph: Graph, quantizer: Quantizer, ids: Value, name: str, count: int, bits: int) -> Value:
    """The packed codes of one width of rows ``ids``: (B,) -> (B, count) int32."""
    packed = quantizer.state()[name]
    return graph.unpack(graph.stored(packed)[ids], np.full(count, bits), packed.shape[1])


def _codewords(graph: Graph, state: Mapping[str, Tensor], name: str, *sides: int, places: Value | None = None) -> Value:
    """Codewords of a tensor in the shape ``sides``, float32; with ``places``, those of them.

    See :mod:`quantizers.coding.codebooks`; sides may cut rows into the codewords that they hold.
    """
    tensor, scale = state[name].reshape(*sides), state.get(f"{name}_scale")
    values = graph.stored(tensor)
    values = (values if places is None else values[places]).to("float32")
    if scale is None:
        return values
    factors = graph.stored(scale.reshape(*tensor.shape[:-1], 1))
    return values * (factors if places is None else factors[places]).to("float32")


def _vectors(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    vectors = quantizer.state()["vectors"]
    rows = graph.stored(vectors)[ids]
    if vectors.dtype != torch.uint8:
        return rows.to("float32")
    kind = {"float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}[quantizer.config.dtype]
    values = torch.arange(256, dtype=torch.uint8).view(kind).to(torch.float32)
    return graph.stored(values)[rows.to("int32")]


def _scalar(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    state, config = quantizer.state(), quantizer.config
    codes = _codes(graph, quantizer, ids, "codes", quantizer.embedding_dim, config.bits)
    values = graph.stored(state["levels"])[codes] if "levels" in state else codes.to("float32")
    scale, zero_point = graph.stored(state["scale"]), graph.stored(state["zero_point"])
    if config.scales == "row":
        scale, zero_point = scale[ids].reshape(-1, 1), zero_point[ids].reshape(-1, 1)
    return zero_point.to("float32") + scale.to("float32") * values


def _pruned(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    state, (num_rows, dim) = quantizer.state(), quantizer.shape
    kept = state["values"].numel()
    if not kept:
        return graph.constant(np.zeros((1, dim), dtype=np.float32))[ids * 0]
    values = graph.stored(state["values"])
    if "mask" in state:
        mask = graph.stored(state["mask"])
        ones = graph.constant(np.array([octet.bit_count() for octet in range(256)], dtype=np.int64))
        starts = ones[mask.to("int32")].total(1).sums_before(0)
        bits = graph.unpack(mask[ids], np.ones(dim, dtype=np.int64), state["mask"].shape[1]).to("int64")
        places = starts[ids].reshape(-1, 1) + bits.sums_before(1)
        return graph.where(bits.equals(1), values[places.at_most(kept - 1)].to("float32"), 0.0)
    packed, bits_a_count = state["row_counts"], bits_for(dim + 1)
    counts = graph.read_stream(graph.stored(packed), len(packed), graph.arange(num_rows), bits_a_count)
    number = np.arange(int(unpack_stream(packed, num_rows, bits_a_count).max()))
    places = (counts.sums_before(0)[ids].reshape(-1, 1) + number).at_most(kept - 1)
    used = graph.constant(number).reshape(1, -1) < counts[ids].reshape(-1, 1)
    columns = graph.read_stream(graph.stored(state["columns"]), len(state["columns"]), places, bits_for(dim))
    # What a shorter row does not have goes to a column behind the last.
    columns = graph.where(used, columns, dim)
    found = graph.where(used, values[places].to("float32"), 0.0)
    empty = graph.constant(np.zeros((1, dim + 1), dtype=np.float32))[ids * 0]
    return graph.node("ScatterElements", [empty, columns, found], found.dtype, axis=1).first_columns(dim)


def _lowrank(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    state = quantizer.state()
    if "scale" in state:
        codes = _codes(graph, quantizer, ids, "factors", len(state["scale"]), quantizer.config.factor_bits)
        factors = graph.stored(state["zero"]) + codes.to("float32") * graph.stored(state["scale"])
    else:
        factors = graph.stored(state["factors"])[ids].to("float32")
    rows = factors @ graph.stored(state["basis"]).to("float32")
    return rows + graph.stored(state["mean"]) if "mean" in state else rows


def _hashed(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    config, (num_rows, dim), pool = quantizer.config, quantizer.shape, quantizer.state()["pool"]
    width = config.block_size
    per_row = -(-dim // width)
    places = config.pool_size if config.overlapping else config.pool_size // width
    keys = ids.reshape(-1, 1) * per_row + np.arange(per_row)
    low = keys % _WORD
    if num_rows * per_row > _WORD - 1:
        low = low ^ _times(keys // _WORD, 0x9E3779B9)
    mixed = _mixed(low ^ _mixed(graph.constant(np.array(config.hash_seed))))
    addresses = mixed * places // _WORD
    if config.overlapping:
        slots = (addresses.reshape(-1, per_row, 1) + np.arange(width)) % places
        blocks = graph.stored(pool)[slots]
    else:
        blocks = graph.stored(pool.view(-1, width))[addresses]
    blocks = blocks.to("float32")
    if config.signs:
        sign = graph.constant(np.array([1.0, -1.0], dtype=np.float32))[mixed % 2]
        blocks = blocks * sign.reshape(-1, per_row, 1)
    rows = blocks.reshape(-1, per_row * width)
    return rows if per_row * width == dim else rows.first_columns(dim)


def _times(value: Value, factor: int) -> Value:
    """The low 32 bits of a product of two numbers of 32 bits, in halves, so that nothing reaches 2^63."""
    return (value % 65_536 * factor + value // 65_536 * factor % 65_536 * 65_536) % _WORD


def _mixed(value: Value) -> Value:
    """murmur3's 32-bit finalizer."""
    value = _times(value ^ value // (1 << 16), 0x85EBCA6B)
    value = _times(value ^ value // (1 << 13), 0xC2B2AE35)
    return value ^ value // (1 << 16)


def _tt(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    cores = [quantizer.state()[f"core_{k}"] for k in range(quantizer.config.num_cores)]
    digits = []
    for core in reversed(cores):
        digits.append(ids % len(core))
        ids = ids // len(core)
    rows: Value | None = None
    columns = 1
    for core, digit in zip(cores, reversed(digits), strict=True):
        _, before, d, after = core.shape
        columns *= d
        right = graph.stored(core)[digit].to("float32").reshape(-1, before, d * after)
        rows = (right if rows is None else rows @ right).reshape(-1, columns, after)
    assert rows is not None
    return rows.reshape(-1, columns).first_columns(quantizer.embedding_dim)


def _bin(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    state = quantizer.state()
    bits = _codes(graph, quantizer, ids, "codes", quantizer.config.num_bits, 1).to("float32")
    rows = bits @ _codewords(graph, state, "decoder", *state["decoder"].shape) + graph.stored(state["bias"])
    return graph.node("Tanh", [rows], rows.dtype) * graph.stored(state["scale"])


def _product(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    config, dim, state = quantizer.config, quantizer.embedding_dim, quantizer.state()
    count = min(config.num_codebooks, dim)
    codes = _codes(graph, quantizer, ids, "codes", count, bits_for(config.codebook_size))
    width, wider = divmod(dim, count)
    parts, block, column = [], 0, 0
    for blocks, columns in ((wider, width + 1), (count - wider, width)):
        if not blocks:
            continue
        part = {"codebooks": state["codebooks"][:, column : column + blocks * columns]}
        if "codebooks_scale" in state:
            part["codebooks_scale"] = state["codebooks_scale"][:, block : block + blocks]
        places = codes.columns(np.arange(block, block + blocks)) * blocks + np.arange(blocks)
        found = _codewords(graph, part, "codebooks", -1, columns, places=places)
        parts.append(found.reshape(-1, blocks * columns))
        block, column = block + blocks, column + blocks * columns
    return graph.side_by_side(parts)


def _opq(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    rotation = _codewords(graph, quantizer.state(), "rotation", quantizer.embedding_dim, quantizer.embedding_dim)
    return _product(graph, quantizer, ids) @ graph.node("Transpose", [rotation], rotation.dtype)


def _additive(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    count, size, dim = quantizer.state()["codebooks"].shape
    codes = _codes(graph, quantizer, ids, "codes", count, bits_for(size))
    places = codes + np.arange(count) * size
    return _codewords(graph, quantizer.state(), "codebooks", -1, dim, places=places).total(1)


def _transform(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    state = quantizer.state()
    widths = state["bits"].to(torch.int64).cpu().numpy()
    # All levels in one row: those of b bits begin at 2^b - 1, after the 0 of no bits.
    levels = torch.cat([torch.zeros(1)] + [gaussian_levels(bits) for bits in range(1, int(widths.max()) + 1)])
    codes = graph.unpack(graph.stored(state["codes"])[ids], widths, state["codes"].shape[1])
    coordinates = graph.stored(levels)[codes + ((1 << widths) - 1)] * graph.stored(state["scale"])
    return coordinates @ graph.stored(state["basis"]).to("float32") + graph.stored(state["mean"])


def _adacomp(graph: Graph, quantizer: Quantizer, ids: Value) -> Value:
    state, lengths, stream = quantizer.state(), np.array(quantizer.config.code_lengths), quantizer.state()["codes"]
    bits_of_book = graph.constant(lengths)
    if "books" in state:
        every = graph.arange(quantizer.num_embeddings)
        books = graph.read_stream(graph.stored(state["books"]), len(state["books"]), every, bits_for(len(lengths)))
        book, start = books[ids], bits_of_book[books].sums_before(0)[ids]
    else:
        book, start = ids * 0, ids * int(lengths[0])
    # Of every code-book's bits those that belong to another than the row's own count as 0.
    number = np.concatenate([np.arange(length) for length in lengths])
    places = (start.reshape(-1, 1) + number).at_most(8 * len(stream) - 1)
    bits = graph.read_stream(graph.stored(stream), len(stream), places, 1)
    own = book.reshape(-1, 1).equals(np.repeat(np.arange(len(lengths)), lengths))
    used = graph.where(own, bits.to("float32"), 0.0)
    return used @ _codewords(graph, state, "decoder", *state["decoder"].shape) + graph.stored(state["bias"])[book]


METHODS: Mapping[str, Method] = {
    "adacomp": _adacomp,
    "bin": _bin,
    "cast": _vectors,
    "dccl": _additive,
    "dpq": _product,
    "hashed": _hashed,
    "identity": _vectors,
    "lowrank": _lowrank,
    "lsq": _additive,
    "opq": _opq,
    "pq": _product,
    "pruned": _pruned,
    "rq": _additive,
    "scalar": _scalar,
    "transform": _transform,
    "tt": _tt,
}
# Why a method can have no graph.
_ENTROPY_CODED = (
    "its rows are entropy-coded: a symbol can be decoded only after the one before it, for which ONNX has no operator"
)
REFUSED: Mapping[str, str] = {"transform_entropy": _ENTROPY_CODED, "trellis": _ENTROPY_CODED}


def metadata(quantizer: Quantizer) -> dict[str, Any]:
    """What a model's properties say of its table."""
    return {
        "method": quantizer.name,
        "config": quantizer.config.model_dump_json(),
        "num_embeddings": str(quantizer.num_embeddings),
        "embedding_dim": str(quantizer.embedding_dim),
    }

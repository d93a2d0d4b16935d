"""How each method's rows are rebuilt from the tensors of its file.

A method is a function of the tensors, the configuration and the table's shape. It returns the function that rebuilds rows:
(B,) int64 row numbers within the table -> (B, D) float32. What is needed for every look-up is worked out once.

Shapes: N rows, D columns, B batch, M codes a row, K codewords a codebook, r axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding_frontier_reader import range_coder
from embedding_frontier_reader.bits import (
    Floats,
    Ints,
    bits_for,
    from_bfloat16,
    from_float8_e4m3,
    from_float8_e5m2,
    read_stream,
    unpack,
    unpack_widths,
)
from embedding_frontier_reader.levels import levels
from embedding_frontier_reader.trellis import Slots

State = Mapping[str, NDArray[Any]]
Config = Mapping[str, Any]
Shape = tuple[int, int]
Rows = Callable[[Ints], Floats]

_MASK = 0xFFFFFFFF


def _float(values: NDArray[Any]) -> Floats:
    """As float32; bfloat16 comes as uint16."""
    return from_bfloat16(values) if values.dtype == np.uint16 else values.astype(np.float32)


def _expect(state: State, name: str, shape: tuple[int, ...]) -> None:
    if state[name].shape != shape:
        raise ValueError(f"{name} has the shape {state[name].shape}, not {shape}")


def _codewords(state: State, name: str, blocks: int | None = None) -> Floats:
    """A tensor of codewords as float32; where it is int8, times its factors: one for each row, or for each of its blocks.

    Raises:
        ValueError: it has no factors, or they are not those of its rows.
    """
    values = state[name]
    if values.dtype != np.int8:
        return _float(values)
    if f"{name}_scale" not in state:
        raise ValueError(f"{name} has no factors {name}_scale")
    factors = state[f"{name}_scale"].astype(np.float32)
    if factors.shape != (*values.shape[:-1], *([] if blocks is None else [blocks])):
        raise ValueError(f"{name} has the shape {values.shape}, its factors {factors.shape}")
    parts = np.array_split(np.arange(values.shape[-1]), blocks or 1)
    factors = factors.reshape(*values.shape[:-1], blocks or 1)
    found: Floats = values.astype(np.float32) * np.repeat(factors, [len(part) for part in parts], axis=-1)
    return found


def identity(state: State, config: Config, shape: Shape) -> Rows:
    """The rows themselves."""
    vectors = state["vectors"]
    return lambda ids: vectors[ids]


def cast(state: State, config: Config, shape: Shape) -> Rows:
    """Values of a smaller floating-point type."""
    vectors = state["vectors"]
    expected = {"float16": "float16", "bfloat16": "uint16"}.get(config["dtype"], "uint8")
    if vectors.dtype != expected:
        raise ValueError(f"vectors is {vectors.dtype}, not {expected}")
    if config["dtype"] == "float8_e4m3":
        return lambda ids: from_float8_e4m3(vectors[ids])
    if config["dtype"] == "float8_e5m2":
        return lambda ids: from_float8_e5m2(vectors[ids])
    return lambda ids: _float(vectors[ids])


def scalar(state: State, config: Config, shape: Shape) -> Rows:
    """zero_point + scale * level[code], scale and zero point of the table, the column or the row."""
    scale, zero_point = _float(state["scale"]), _float(state["zero_point"])
    by_row = config["scales"] == "row"

    def rows(ids: Ints) -> Floats:
        codes = unpack(state["codes"][ids], shape[1], config["bits"])
        values = state["levels"][codes] if "levels" in state else codes.astype(np.float32)
        return zero_point[ids, None] + scale[ids, None] * values if by_row else zero_point + scale * values

    return rows


def pruned(state: State, config: Config, shape: Shape) -> Rows:
    """The kept values in their places, 0 elsewhere; the places are a mask, or columns and how many each row has."""
    values, width = _float(state["values"]), bits_for(shape[1])
    if "mask" in state:
        _expect(state, "mask", (shape[0], -(-shape[1] // 8)))
        counts = np.unpackbits(state["mask"], axis=1, count=shape[1], bitorder="little").sum(axis=1, dtype=np.int64)
    else:
        _expect(state, "row_counts", (-(-shape[0] * bits_for(shape[1] + 1) // 8),))
        _expect(state, "columns", (-(-len(values) * width // 8),))
        counts = read_stream(state["row_counts"], np.arange(shape[0]), bits_for(shape[1] + 1))
    if counts.sum() != len(values):
        raise ValueError(f"its rows say that they keep {counts.sum()} values, and {len(values)} are stored")
    starts = np.cumsum(counts) - counts

    def rows(ids: Ints) -> Floats:
        some = counts[ids]
        which = np.repeat(np.arange(len(ids)), some)
        places = np.arange(len(which)) + (starts[ids] - (np.cumsum(some) - some))[which]
        if "mask" in state:
            columns = np.unpackbits(state["mask"][ids], axis=1, count=shape[1], bitorder="little").nonzero()[1]
        else:
            columns = read_stream(state["columns"], places, width)
        out = np.zeros((len(ids), shape[1]), dtype=np.float32)
        out[which, columns] = values[places]
        return out

    return rows


def lowrank(state: State, config: Config, shape: Shape) -> Rows:
    """Coordinates times axes, plus the mean; coordinates are floats, or zero + scale * code."""
    basis, bits = _float(state["basis"]), config["factor_bits"]

    def rows(ids: Ints) -> Floats:
        factors = state["factors"][ids]
        if "scale" in state:
            codes = unpack(factors, len(state["scale"]), bits).astype(np.float32)
            factors = state["zero"] + codes * state["scale"]
        out = factors.astype(np.float32) @ basis
        return out + state["mean"] if "mean" in state else out

    return rows


def hashed(state: State, config: Config, shape: Shape) -> Rows:
    """Blocks of values of one pool, at addresses that murmur3's 32-bit finalizer gives."""
    pool, width, overlapping = state["pool"], config["block_size"], config["overlapping"]
    per_row = -(-shape[1] // width)
    blocks = None if overlapping else pool[: len(pool) // width * width].reshape(-1, width)
    places = config["pool_size"] if overlapping else config["pool_size"] // width
    seed = np.uint32(int(_mixed(np.array([config["hash_seed"]], dtype=np.uint32))[0]))

    def rows(ids: Ints) -> Floats:
        keys = ids[:, None] * per_row + np.arange(per_row)
        low = (keys & _MASK).astype(np.uint32)
        if shape[0] * per_row > _MASK:
            low ^= (keys >> 32).astype(np.uint32) * np.uint32(0x9E3779B9)
        mixed = _mixed(low ^ seed)
        addresses = mixed.astype(np.int64) * places >> 32
        if blocks is None:
            found = pool[(addresses[:, :, None] + np.arange(width)) % places]
        else:
            found = blocks[addresses]
        found = found.astype(np.float32)
        if config["signs"]:
            found *= (1 - 2 * (mixed & 1).astype(np.float32))[:, :, None]
        out: Floats = found.reshape(len(ids), per_row * width)[:, : shape[1]]
        return out

    return rows


def _mixed(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """murmur3's finalizer; products keep their low 32 bits."""
    half, thirteen = np.uint32(16), np.uint32(13)
    values = (values ^ values >> half) * np.uint32(0x85EBCA6B)
    values = (values ^ values >> thirteen) * np.uint32(0xC2B2AE35)
    return values ^ values >> half


def tt(state: State, config: Config, shape: Shape) -> Rows:
    """The product of the cores (n, r, d, r') at the digits of the row number, the last core's digit the lowest."""
    cores = [_float(state[f"core_{k}"]) for k in range(config["num_cores"])]
    most = math.prod(len(core) for core in cores)
    if shape[0] > most:
        raise ValueError(f"its cores have {most} rows")

    def rows(ids: Ints) -> Floats:
        digits = []
        for core in reversed(cores):
            digits.append(ids % len(core))
            ids = ids // len(core)
        out = np.ones((len(ids), 1, 1), dtype=np.float32)
        for core, digit in zip(cores, reversed(digits), strict=True):
            _, before, d, after = core.shape
            out = np.matmul(out, core[digit].reshape(len(ids), before, d * after)).reshape(len(ids), -1, after)
        return out.reshape(len(ids), -1)[:, : shape[1]]

    return rows


def bin_(state: State, config: Config, shape: Shape) -> Rows:
    """A row is scale * tanh(bits times decoder + bias)."""
    decoder = _codewords(state, "decoder")

    def rows(ids: Ints) -> Floats:
        bits = np.unpackbits(state["codes"][ids], axis=1, count=len(decoder), bitorder="little")
        out: Floats = np.tanh(bits.astype(np.float32) @ decoder + state["bias"]) * state["scale"]
        return out

    return rows


def product(state: State, config: Config, shape: Shape) -> Rows:
    """The codewords of M blocks of columns side by side; the first D mod M blocks are a column wider."""
    size, count = config["codebook_size"], min(config["num_codebooks"], shape[1])
    codebooks = _codewords(state, "codebooks", blocks=count)
    # Which block each column belongs to: a row is the codebooks' columns, each at its block's code.
    block = np.repeat(np.arange(count), [len(part) for part in np.array_split(np.arange(shape[1]), count)])
    columns = np.arange(shape[1])

    def rows(ids: Ints) -> Floats:
        codes = unpack(state["codes"][ids], count, bits_for(size))
        return codebooks[codes[:, block], columns]

    return rows


def opq(state: State, config: Config, shape: Shape) -> Rows:
    """As ``product``, rotated back."""
    inner, rotation = product(state, config, shape), _codewords(state, "rotation").T
    return lambda ids: inner(ids) @ rotation


def additive(state: State, config: Config, shape: Shape) -> Rows:
    """The sum of one codeword of each codebook (M, K, D)."""
    codebooks = _codewords(state, "codebooks")
    size, count = config["codebook_size"], config["num_codebooks"]

    def rows(ids: Ints) -> Floats:
        codes = unpack(state["codes"][ids], count, bits_for(size))
        out = np.zeros((len(ids), shape[1]), dtype=np.float32)
        for book, code in zip(codebooks, codes.T, strict=True):
            out += book[code]
        return out

    return rows


def transform(state: State, config: Config, shape: Shape) -> Rows:
    """Codes of 0 to 8 bits an axis, of Gaussian levels times the axis' scale; times axes, plus the mean."""
    basis, widths = _float(state["basis"]), state["bits"].astype(np.int64)
    # All levels in one row: those of b bits begin at 2^b - 1, after the 0 of no bits.
    table = np.concatenate([np.zeros(1, dtype=np.float32), *(levels(b) for b in range(1, int(widths.max()) + 1))])

    def rows(ids: Ints) -> Floats:
        codes = unpack_widths(state["codes"][ids], widths)
        out: Floats = (table[codes + (1 << widths) - 1] * state["scale"]) @ basis + state["mean"]
        return out

    return rows


def transform_entropy(state: State, config: Config, shape: Shape) -> Rows:
    """Range-coded symbols k of each row, step * (k - sign(k) * shrink); times axes, plus the mean."""
    basis = _float(state["basis"])
    axes, sizes, frequency = (state[name].astype(np.int64) for name in ("table_axes", "table_sizes", "frequency"))
    starts = np.cumsum(sizes) - sizes
    of_entry = np.repeat(np.arange(len(sizes)), sizes)
    before = np.cumsum(frequency) - frequency
    before -= before[starts][of_entry]
    symbol = (np.arange(len(frequency)) - (starts + sizes // 2)[of_entry]).astype(np.float32)
    shrunk = symbol - np.sign(symbol) * _float(state["shrink"])[of_entry]
    values = (state["step"] * shrunk).astype(np.float32)
    tables, lookup = np.repeat(np.arange(len(axes)), axes), range_coder.symbol_lookup(frequency)
    lengths = range_coder.decode_list(state["lengths"], state["length_bytes"], state["length_frequency"], shape[0])
    lengths += int(state["shortest"])
    if lengths.min() < 0 or lengths.sum() != len(state["stream"]):
        raise ValueError(f"its rows take {lengths.sum()} bytes, and {len(state['stream'])} are stored")
    begins = np.cumsum(lengths) - lengths

    def rows(ids: Ints) -> Floats:
        entries = range_coder.decode(state["stream"], begins[ids], lengths[ids], tables, lookup, frequency, before)
        out: Floats = values[entries] @ basis + state["mean"]
        return out

    return rows


def trellis(state: State, config: Config, shape: Shape) -> Rows:
    """What the symbols of a row's slot stand for, times axes where there are any, plus the mean."""
    mean, axes, columns = state["mean"], None, shape[1]
    if config["rank"]:
        columns = len(state["basis"])
        if state["basis"].shape[1:] != shape[1:] or state["basis_scale"].shape != (columns,):
            raise ValueError(f"basis has the shape {state['basis'].shape}, basis_scale {state['basis_scale'].shape}")
        axes = state["basis"].astype(np.float32) * state["basis_scale"][:, None]
    if mean.shape != shape[1:]:
        raise ValueError(f"mean has the shape {mean.shape}")
    classes = np.zeros(shape[0], dtype=np.int64)
    if len(state["slot_bytes"]) > 1:
        classes = range_coder.decode_list(state["classes"], state["class_bytes"], state["class_frequency"], shape[0])
    slots = Slots(state, classes, columns, config["states"])

    def rows(ids: Ints) -> Floats:
        values = slots.values(ids)
        return (values if axes is None else values @ axes) + mean

    return rows


def adacomp(state: State, config: Config, shape: Shape) -> Rows:
    """Bits times decoder, plus bias, of the code-book that a row has; the code-books' bits are not equally many."""
    bits = np.array(config["code_lengths"])
    if 8 * len(state["codes"]) < shape[0] * bits.min():
        raise ValueError(f"codes has fewer bits than {shape[0]} rows")
    edges = np.concatenate([[0], np.cumsum(bits)])
    decoder, bias = _codewords(state, "decoder"), state["bias"]
    if "books" in state:
        books = read_stream(state["books"], np.arange(shape[0]), bits_for(len(bits)))
    else:
        books = np.zeros(shape[0], dtype=np.int64)
    starts = np.cumsum(bits[books]) - bits[books]

    def rows(ids: Ints) -> Floats:
        out = np.empty((len(ids), shape[1]), dtype=np.float32)
        for book in np.unique(books[ids]):
            members = np.flatnonzero(books[ids] == book)
            code = read_stream(state["codes"], starts[ids[members], None] + np.arange(bits[book]), 1)
            out[members] = code.astype(np.float32) @ decoder[edges[book] : edges[book + 1]] + bias[book]
        return out

    return rows


METHODS: Mapping[str, Callable[[State, Config, Shape], Rows]] = {
    "adacomp": adacomp,
    "bin": bin_,
    "cast": cast,
    "dccl": additive,
    "dpq": product,
    "hashed": hashed,
    "identity": identity,
    "lowrank": lowrank,
    "lsq": additive,
    "opq": opq,
    "pq": product,
    "pruned": pruned,
    "rq": additive,
    "scalar": scalar,
    "transform": transform,
    "transform_entropy": transform_entropy,
    "trellis": trellis,
    "tt": tt,
}

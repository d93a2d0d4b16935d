"""Whether the tensors of a file belong together, before rows are read with them.

A file's digest tells damage; this tells what somebody's program wrote wrong, which would read as rows like any others.

Shapes: N rows, D columns, r coded columns, G classes, T tables.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quantizers.coding.range_coder import LIST_BLOCK, TOTAL
from quantizers.coding.slots import slot_words
from quantizers.errors import InputError
from quantizers.methods.trellis.model import LEVELS

_TYPES = {
    **dict.fromkeys(("heads", "classes", "table_row", "table_of", "precision"), torch.uint8),
    **dict.fromkeys(("class_bytes", "class_frequency", "slot_bytes", "largest", "frequency"), torch.int16),
    **dict.fromkeys(("step", "basis_scale", "mean"), torch.float32),
    "tails": torch.int32,
    "shrink": torch.float16,
    "basis": torch.int8,
}


def check_tables(state: Mapping[str, Tensor], rows: int, dim: int) -> None:
    """Everything that does not depend on the rows' classes.

    Raises:
        InputError: a tensor is missing, of another type, or does not fit the others.
    """
    for name, tensor in state.items():
        _require(tensor.dtype == _TYPES[name], f"{name} is {tensor.dtype}, not {_TYPES[name]}")
    parts = ("classes", "class_bytes", "class_frequency"), ("basis", "basis_scale")
    for together in parts:
        found = [name in state for name in together]
        _require(all(found) or not any(found), f"of {', '.join(together)} it has some, and not all")
    number = {name: state[name].to(torch.int64) for name in ("slot_bytes", "table_row", "table_of", "largest", "frequency")}
    slots, contexts, precision = number["slot_bytes"], len(number["largest"]), int(state["precision"])
    columns = len(state["basis"]) if "basis" in state else dim
    _require(len(slots) > 0 and int(slots.min()) >= 0, "slot_bytes has negative lengths, or none")
    _require(len(slots) == 1 or "classes" in state, "it has several classes, and does not say which rows are of which")
    _require(len(number["table_row"]) == len(slots), "table_row has not one entry a class")
    _require(
        number["table_of"].dim() == 2 and number["table_of"].shape[1] == columns, f"table_of is not of {columns} columns"
    )
    _require(int(number["table_row"].max()) < len(number["table_of"]), "a class has a row of tables that is not there")
    _require(2 * int(number["table_of"].max()) + 1 < contexts, "a column has a table that is not there")
    _require(tuple(state["shrink"].shape) == (contexts, LEVELS), f"shrink is not of {contexts} x {LEVELS}")
    finite = bool(state["shrink"].isfinite().all() and state["step"].isfinite().all())
    _require(finite, "step or shrink is not finite")
    _require(tuple(state["mean"].shape) == (dim,), f"mean is not of {dim} columns")
    if "basis" in state:
        _require(tuple(state["basis"].shape) == (columns, dim), f"basis is not of {dim} columns")
        _require(tuple(state["basis_scale"].shape) == (columns,), "basis_scale has not one factor an axis")
    if "classes" in state:
        shares, blocks = state["class_frequency"].to(torch.int64), state["class_bytes"].to(torch.int64)
        _require(len(shares) == len(slots) and int(shares.min()) >= 0, "class_frequency has not one share a class")
        _require(int(shares.sum()) == TOTAL, f"class_frequency does not add up to {TOTAL}")
        fits = len(blocks) == -(-rows // LIST_BLOCK) and int(blocks.sum()) == len(state["classes"])
        _require(fits and int(blocks.min()) >= 0, "class_bytes does not fit the classes' blocks")
    _check_frequencies(number["largest"], number["frequency"], precision)


def _check_frequencies(largest: Tensor, frequency: Tensor, precision: int) -> None:
    _require(1 <= precision <= 15, f"precision is {precision}, not 1 to 15 bits")
    _require(int(largest.min()) >= 0 and int(largest.sum()) == len(frequency), "frequency has not one entry a magnitude")
    _require(not len(frequency) or int(frequency.min()) > 0, "a magnitude has no share of its context")
    of_context = torch.repeat_interleave(torch.arange(len(largest), device=largest.device), largest)
    sums = torch.zeros_like(largest).index_add_(0, of_context, frequency)
    _require(2 * int(sums.max()) < 1 << precision, "the frequencies of a context leave 0 no share")


def check_rows(state: Mapping[str, Tensor], classes: Tensor, rows: int) -> None:
    """Whether the rows' slots are what is stored.

    Args:
        state: whose tables are checked.
        classes: (N,) int64.
        rows: N.

    Raises:
        InputError: there are more bytes than slots, or fewer.
    """
    _require(len(classes) == rows and int(classes.max()) < len(state["slot_bytes"]), f"it has not one class for {rows} rows")
    slots = state["slot_bytes"].to(torch.int64).numpy()
    words = slot_words(slots)
    for name, length in (("heads", slots - 4 * words), ("tails", words)):
        asked = int(length[classes.numpy()].sum())
        _require(asked == len(state[name]), f"its rows take {asked} of {name}, and {len(state[name])} are stored")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise InputError(problem)

"""Running text as parallel streams, read a segment at a time: what truncated backpropagation through time trains on.

Shapes: T tokens of a segment, B streams.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """What is read of every stream at once.

    Attributes:
        ids: (T, B) int64, the words that are read.
        targets: (T, B) int64, the words that follow them.
        first: whether the streams begin here, so that no state is carried into the segment.
    """

    ids: Tensor
    targets: Tensor
    first: bool

    def to(self, device: torch.device) -> Segment:
        """The same segment on ``device``."""
        return Segment(self.ids.to(device), self.targets.to(device), self.first)


@dataclasses.dataclass(frozen=True, eq=False)
class Streams:
    """A text cut into equal parts that are read side by side.

    Attributes:
        text: (tokens,) int64.
        before: the word in front of the text's first, which is predicted too: the one that closes a line.
        count: B; with more than one, the last ``tokens % B`` tokens are left out.
        length: T; the last segment may be shorter.
    """

    text: np.ndarray
    before: int
    count: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens that are predicted."""
        return len(self.text) // self.count * self.count

    def __len__(self) -> int:
        """Segments."""
        return -(-len(self.text) // self.count // self.length)

    def batches(self, generator: torch.Generator | None = None) -> Iterator[Segment]:
        """All segments, in the text's order; nothing is shuffled."""
        steps = len(self.text) // self.count
        targets = torch.from_numpy(self.text[: steps * self.count]).reshape(self.count, steps)
        ids = torch.from_numpy(np.concatenate([[self.before], self.text[: steps * self.count - 1]]))
        ids = ids.reshape(self.count, steps)
        for start in range(0, steps, self.length):
            part = slice(start, start + self.length)
            yield Segment(ids[:, part].T.contiguous(), targets[:, part].T.contiguous(), start == 0)

"""What is solved side by side in one sweep over the columns, and what comes of it.

Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from compress.quantizer import Grid, GridSpec
from compress.sparsity import Pattern


@dataclass(frozen=True)
class Pruning:
    """Share of zeros, or pattern (n, m). mask_block: columns whose unstructured mask is chosen together.
    row_counts: rows of each stacked matrix; each keeps its own share.
    """

    sparsity: float
    pattern: Pattern | None
    mask_block: int
    row_counts: tuple[int, ...]

    @property
    def width(self) -> int:
        """Columns whose mask is chosen together."""
        return self.pattern[1] if self.pattern else self.mask_block


@dataclass(frozen=True)
class Lane:
    """One scheme's rows of a stack: weight [R, C] in original column order, what it is rounded to, how it is pruned.
    block_size: columns after which errors are passed on to all that remain. grid: as fitted before, instead of by the
    sweep. keep_mask [R, C]: as chosen before, instead of by `pruning`.
    """

    weight: Tensor
    spec: GridSpec | None = None
    pruning: Pruning | None = None
    block_size: int = 128
    grid: Grid | None = None
    keep_mask: Tensor | None = None

    @property
    def is_masked(self) -> bool:
        """Whether the lane ends with zeros."""
        return self.pruning is not None or self.keep_mask is not None


@dataclass(frozen=True)
class Solved:
    """weight [R, C]: the final values. grid: when quantized; keep_mask bool [R, C] when pruned."""

    weight: Tensor
    grid: Grid | None = None
    keep_mask: Tensor | None = None

    def rows(self, start: int, end: int) -> Solved:
        """One matrix of a stack."""
        grid = self.grid and Grid(self.grid.spec, self.grid.scale[start:end], self.grid.zero_point[start:end])
        keep = None if self.keep_mask is None else self.keep_mask[start:end]
        return Solved(self.weight[start:end], grid, keep)


def block_width(
    num_columns: int, spec: GridSpec | None, pruning: Pruning | None, block_size: int, *, ordered: bool
) -> int:
    """The widest block of about block_size columns that cuts no group and no mask."""
    unit = 1
    if spec and not is_static(spec, ordered):
        unit = spec.group_size or 1
    if pruning:
        unit = math.lcm(unit, pruning.width)
    return min(num_columns, max(unit, block_size // unit * unit))


def is_static(spec: GridSpec, ordered: bool) -> bool:
    """Whether grids are fitted before the sweep."""
    return ordered or spec.group_size is None

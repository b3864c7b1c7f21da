"""Naive float64 solvers with numpy and nothing of compress: after every column the inverse of the Hessian of the
columns that are left is computed anew, as in Optimal Brain Quantization (arXiv 2208.11580), which GPTQ and SparseGPT
make fast. Shapes: R rows/out, C columns/in.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray


def round_to_bfloat16(values: Array) -> Array:
    """Round to nearest even on the upper 16 bits of a float32."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def damp(hessian: Array, frac: float) -> Array:
    damped = hessian.astype(np.float64).copy()
    dead = np.diag(hessian) == 0
    damped[dead, dead] = 1
    return damped + frac * np.mean(np.diag(hessian)) * np.eye(len(hessian))


def grid_of(values: Array, bits: int, symmetric: bool) -> tuple[float, float]:
    """Scale and zero point of one row's group."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    if symmetric:
        high = max(high, -low)
        low = -high
    scale = float(round_to_bfloat16(np.array([(high - low) / (2**bits - 1)]))[0]) or 1.0
    if symmetric:
        return scale, 0.0
    lowest = -(2 ** (bits - 1))
    return scale, float(np.clip(np.round(lowest - low / scale), lowest, -lowest - 1))


def nearest(value: float, scale: float, zero: float, bits: int) -> float:
    lowest = -(2 ** (bits - 1))
    return (float(np.clip(np.round(value / scale + zero), lowest, -lowest - 1)) - zero) * scale


def solve(
    weight: Array,
    damped: Array,
    *,
    bits: int | None = None,
    group: int | None = None,
    symmetric: bool = True,
    choose_mask: Callable[[Array, Array, int], Array | None] | None = None,
    order: Array | None = None,
) -> Array:
    """Quantize, prune or both. choose_mask(remaining weights [R, C'], costs [R, C'], column) returns the keep mask of
    the columns that it decides on now, or None. With `order`, groups' grids come from the original weights.
    """
    num_rows, num_columns = weight.shape
    order = np.arange(num_columns) if order is None else order
    static = not np.array_equal(order, np.arange(num_columns)) or group is None
    group = group or num_columns
    original = weight.astype(np.float64)
    work, hessian = original[:, order].copy(), damped[np.ix_(order, order)]
    result, keep = np.zeros_like(work), np.ones(work.shape, dtype=bool)
    grids: dict[tuple[int, int], tuple[float, float]] = {}
    for j in range(num_columns):
        if choose_mask is not None:
            costs = np.stack([work[:, k] ** 2 / np.linalg.inv(hessian[k:, k:])[0, 0] for k in range(j, num_columns)], 1)
            chosen = choose_mask(work[:, j:], costs, j)
            if chosen is not None:
                keep[:, j : j + chosen.shape[1]] = chosen
        if bits is not None and (static or j % group == 0):
            index = order[j] // group
            source = original if static else work
            for row in range(num_rows):
                grids[row, index] = grid_of(source[row, index * group : (index + 1) * group], bits, symmetric)
        for row in range(num_rows):
            value = work[row, j]
            if bits is not None:
                value = nearest(value, *grids[row, order[j] // group], bits)
            result[row, j] = value if keep[row, j] else 0.0
        inverse = np.linalg.inv(hessian[j:, j:])
        error = (work[:, j] - result[:, j]) / inverse[0, 0]
        work[:, j:] -= np.outer(error, inverse[0])
    return result[:, np.argsort(order)]


def unstructured_mask(sparsity: float, block: int) -> Callable[[Array, Array, int], Array | None]:
    """Keep all but the cheapest share of every block of columns."""

    def choose(_: Array, costs: Array, column: int) -> Array | None:
        if column % block:
            return None
        costs = costs[:, :block]
        cheapest = np.argsort(costs, axis=None, kind="stable")[: round(sparsity * costs.size)]
        keep = np.ones(costs.size, dtype=bool)
        keep[cheapest] = False
        return keep.reshape(costs.shape)

    return choose


def pattern_mask(num_kept: int, width: int) -> Callable[[Array, Array, int], Array | None]:
    """Keep the `num_kept` dearest of every `width` columns, row by row."""

    def choose(_: Array, costs: Array, column: int) -> Array | None:
        if column % width:
            return None
        keep = np.zeros((len(costs), width), dtype=bool)
        for row, cost in enumerate(costs[:, :width]):
            keep[row, np.argsort(-cost, kind="stable")[:num_kept]] = True
        return keep

    return choose

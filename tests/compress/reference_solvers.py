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


def wanda_keep(weight: Array, inputs: Array, num_pruned: int) -> Array:
    """Row by row, all but the num_pruned smallest of |w| * |x|."""
    keep = np.ones(weight.shape, dtype=bool)
    for row in range(len(weight)):
        scores = [abs(weight[row, j]) * np.sqrt((inputs[:, j] ** 2).sum()) for j in range(weight.shape[1])]
        keep[row, np.argsort(scores, kind="stable")[:num_pruned]] = False
    return keep


def restore(row: Array, keep: Array, damped: Array) -> Array:
    """The values on `keep` that come nearest to what the whole row [C] does, by explicit elimination."""
    kept, gone = np.flatnonzero(keep), np.flatnonzero(~keep)
    result = np.zeros_like(row)
    pulled = damped[np.ix_(kept, gone)] @ row[gone]
    result[kept] = row[kept] + np.linalg.inv(damped[np.ix_(kept, kept)]) @ pulled
    return result


def obr(weight: Array, keep: Array, damped: Array, bits: int, group: int, symmetric: bool) -> Array:
    """Restore, round the first half to nearest and move its error to the second half's kept weights, then round those
    column by column.
    """
    half = weight.shape[1] // 2
    result, moved = np.zeros_like(weight), np.zeros_like(weight)
    for row in range(len(weight)):
        restored = restore(weight[row], keep[row], damped)
        for start in range(0, half, group):
            grid = grid_of(restored[start : start + group], bits, symmetric)
            result[row, start : start + group] = [nearest(v, *grid, bits) for v in restored[start : start + group]]
        error = restored[:half] - result[row, :half]
        free = half + np.flatnonzero(keep[row, half:])
        moved[row] = restored
        moved[row, free] += np.linalg.inv(damped[np.ix_(free, free)]) @ damped[free, :half] @ error

    def choose(work: Array, _: Array, column: int) -> Array | None:
        return keep[:, half:] if column == 0 else None

    second = damped[half:, half:]
    result[:, half:] = solve(moved[:, half:], second, bits=bits, group=group, symmetric=symmetric, choose_mask=choose)
    return result


def gptaq(weight: Array, damped: Array, cross: Array, bits: int, group: int) -> Array:
    """The paper's sweep: with column j fixed, what its input's change asks for goes to the columns that are left."""
    num_columns = weight.shape[1]
    work, result = weight.copy(), np.zeros_like(weight)
    for j in range(num_columns):
        if j % group == 0:
            grids = [grid_of(work[row, j : j + group], bits, True) for row in range(len(weight))]
        value = work[:, j].copy()
        result[:, j] = [nearest(v, *grid, bits) for v, grid in zip(value, grids, strict=True)]
        inverse = np.linalg.inv(damped[j:, j:])
        work[:, j:] -= np.outer((value - result[:, j]) / inverse[0, 0], inverse[0])
        if j + 1 < num_columns:
            work[:, j + 1 :] += np.outer(value, cross[j, j + 1 :] @ np.linalg.inv(damped[j + 1 :, j + 1 :]))
    return result


def awq_scale(weight: Array, inputs: Array, bits: int, group: int, num_ratios: int) -> Array:
    """Of all powers, the scale whose rounding changes the outputs of the tokens [N, C] least; powers of two."""
    sizes = np.sqrt((inputs**2).mean(0) * 2)
    best, lowest = np.ones(len(sizes)), np.inf
    for step in range(num_ratios):
        scale = sizes ** (step / num_ratios)
        scale = 2.0 ** np.round(np.log2(scale / np.sqrt(scale.max() * scale.min())))
        wide, changed = weight * scale, np.zeros_like(weight)
        for row in range(len(weight)):
            for start in range(0, weight.shape[1], group):
                grid = grid_of(wide[row, start : start + group], bits, True)
                part = slice(start, start + group)
                changed[row, part] = [nearest(v, *grid, bits) for v in wide[row, part]]
        loss = ((inputs @ (weight - changed / scale).T) ** 2).sum()
        if loss < lowest:
            best, lowest = scale, loss
    return best


def ternary_scale(values: Array) -> float:
    """The scale of least squared error of values [g] times -1, 0 or 1, by trying every set of them that is kept."""
    best, lowest = 1.0, np.inf
    for size in range(1, len(values) + 1):
        kept = np.sort(np.abs(values))[::-1][:size]
        scale = kept.mean()
        error = ((kept - scale) ** 2).sum() + (values**2).sum() - (kept**2).sum()
        if error < lowest - 1e-15:
            best, lowest = scale, error
    return best


def hill_exponent(weight: Array) -> float:
    eigenvalues = np.sort(np.linalg.svd(weight, compute_uv=False) ** 2)
    tail = eigenvalues[len(eigenvalues) // 2 :]
    return 1 + len(tail) / np.log(tail / tail[0]).sum()

"""How much a scheme's grid and sparsity hurt a weight, from the weight alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from compress.families import Shapes, linear_shapes
from compress.methods import Method
from compress.rules import mlp_units
from compress.scheme import Scheme
from compress.shards import TensorReader
from compress.solve import solve_unit


def mlp_errors(model: Path, scheme: Scheme, shapes: Shapes) -> dict[tuple[str, ...], float]:
    """|W-Q|^2 / |W|^2 of the MLPs' units, mean over their weights, when the scheme rounds to nearest and prunes by
    magnitude. Raises NumericalError for weights that are not finite.
    """
    method = Method.RTN if scheme.has_grid else Method.MAGNITUDE
    twin = replace(scheme, method=method, act_order=None, propagate=None, overrides=None, only=None)
    reader = TensorReader(model)
    errors = {}
    for unit in (unit for kind in mlp_units(linear_shapes(shapes)) for unit in kind):
        weights = {name: reader.read(f"{name}.weight").float() for name in unit}
        dtype = reader.read(f"{unit[0]}.weight").dtype
        reports = solve_unit(weights, None, twin, dtype).reports.values()
        errors[unit] = sum(report.weight_error for report in reports) / len(unit)
    return errors

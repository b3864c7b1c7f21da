"""What vLLM serves packed, by platform, and why it would not. Standard library only.

Sources: runs of vLLM 0.32 on a CPU and the kernels of vLLM 0.26 and 0.32 for CUDA (Machete and Marlin: 4 bits and
symmetric 8; Humming: symmetric 2 to 8 bits, sm75 and newer). Experts: the choice of kernels in vLLM 0.32, read, not run
(CUDA: Marlin; CPU: all of them ask for AMX, which not every machine has). vLLM looks at the first expert of a layer and
takes all others for like it.
"""

from __future__ import annotations

from collections.abc import Mapping

from compress.families import is_expert
from compress.methods import TERNARY, InputActivations
from compress.rules import module_schemes
from compress.scheme import CheckpointFormat, Platform, Scheme

# Rows and columns that a packed weight must be multiples of.
_UNITS = {"cpu": (32, 32), "cuda": (64, 128)}
# Modules that are fused with another one, by the first of each; all projections of a layer's experts are, too.
_FUSED = {"q_proj": ("k_proj", "v_proj"), "q_a_proj": ("kv_a_proj_with_mqa",), "gate_proj": ("up_proj",)}
_CUDA_GROUPS = (None, 32, 64, 128)


def packed_obstacle(
    scheme: Scheme | None, platform: Platform, shapes: Mapping[str, tuple[int, int]] | None = None
) -> str | None:
    """Why this platform's vLLM would not load the scheme packed, or None when it would.

    shapes: {name: (rows, columns)} of the weights to pack; without them only the scheme itself is judged.
    """
    if scheme is not None and scheme.repair is not None:
        return "a repair trains 16-bit values"
    if scheme is not None and scheme.has_rules and shapes:
        return _mixed_obstacle(module_schemes(scheme, shapes), platform, shapes)
    if scheme is None or not scheme.has_grid:
        return "there are no codes to pack without num_bits"
    if scheme.average_bits is not None:
        return "a budget gives ternary codes, and codes to embedding and head, that no kernel of vLLM reads"
    if scheme.num_bits == TERNARY:
        return "vLLM has no kernel for ternary codes; 2-bit ones are the nearest that it packs"
    if scheme.input_activations is None:
        obstacle = _weight_only_obstacle(scheme, platform)
        if obstacle is not None:
            return obstacle
    if any(map(is_expert, shapes or ())):
        if platform == "cpu":
            return "vLLM on cpu has no kernel for packed experts without AMX"
        if scheme.input_activations is None and (scheme.num_bits not in (4, 8) or not scheme.symmetric):
            return "vLLM on cuda loads packed experts of 4 or 8 bits only, and symmetric ones"
    row_unit, column_unit = _UNITS[platform]
    for name, (num_rows, num_columns) in (shapes or {}).items():
        if num_rows % row_unit or num_columns % column_unit:
            return (
                f"vLLM on {platform} packs outputs in multiples of {row_unit} and inputs in multiples of "
                f"{column_unit}; {name} is {num_rows} x {num_columns}"
            )
    return None


def _mixed_obstacle(
    own: Mapping[str, Scheme | None], platform: Platform, shapes: Mapping[str, tuple[int, int]]
) -> str | None:
    """The first obstacle of any module's scheme; fused modules must have the same one."""
    grids = {name: scheme if scheme and scheme.has_grid else None for name, scheme in own.items()}
    first_of: dict[str, Scheme | None] = {}
    for name, scheme in grids.items():
        layer, _, module = name.rpartition(".")
        for other in (other for other in _FUSED.get(module, ()) if f"{layer}.{other}" in grids):
            if _layout(grids[f"{layer}.{other}"]) != _layout(scheme):
                return f"vLLM fuses {module} and {other}: they must have one rule, in {layer} they have two"
        experts, numbered, _ = name.partition(".experts.")
        if numbered and _layout(first_of.setdefault(experts, scheme)) != _layout(scheme):
            return f"vLLM fuses all experts of a layer: they must have one rule, in {experts}.experts they have several"
    if not any(grids.values()):
        return "there are no codes to pack without num_bits"
    for scheme in {scheme for scheme in grids.values() if scheme}:
        mine = {name: shapes[name] for name, used in grids.items() if used == scheme}
        obstacle = packed_obstacle(scheme, platform, mine)
        if obstacle is not None:
            return obstacle
    return None


def _layout(scheme: Scheme | None) -> object:
    return scheme and (scheme.num_bits, scheme.group_size, scheme.symmetric)


def servable(
    scheme: Scheme | None, platform: Platform, shapes: Mapping[str, tuple[int, int]] | None = None
) -> CheckpointFormat:
    """What `auto` writes: PACKED where the platform's vLLM has a kernel, else DEQUANTIZED (see packed_obstacle)."""
    obstacle = packed_obstacle(scheme, platform, shapes)
    return CheckpointFormat.PACKED if obstacle is None else CheckpointFormat.DEQUANTIZED


def dequantized_obstacle(scheme: Scheme | None) -> str | None:
    """Why 16-bit values would not be what the scheme says, or None: rounded inputs are the engine's to make."""
    if scheme is None or scheme.input_activations is None:
        return None
    kind = "W8A8" if scheme.input_activations is InputActivations.INT8 else "FP8"
    return f"{kind} rounds each layer's inputs too, which only an engine with packed weights does"


def _weight_only_obstacle(scheme: Scheme, platform: Platform) -> str | None:
    if platform == "cpu":
        if scheme.num_bits != 4:
            return f"vLLM on cpu has no kernel for packed {scheme.num_bits}-bit weights, only for 4 bits"
        if scheme.group_size is not None and scheme.group_size % 2:
            return f"vLLM on cpu needs an even group_size, this is {scheme.group_size}"
        return None
    if not scheme.symmetric and scheme.num_bits != 4:
        return f"vLLM on cuda loads packed {scheme.num_bits}-bit weights only when symmetric"
    if scheme.group_size not in _CUDA_GROUPS:
        return f"vLLM on cuda packs group_size 32, 64, 128 or per channel, this is {scheme.group_size}"
    return None

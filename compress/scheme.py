"""A scheme says what is done to the weights: method, bits, sparsity. Standard library only, so that plans import it
without torch.

rtn and magnitude look at the weights alone, all other methods also at the inputs' Hessian. Bits, sparsity or both:
magnitude with num_bits and rtn with sparsity prune by magnitude and then round, wanda likewise by its own scores;
sparsegpt with num_bits and gptq or gptaq with sparsity prune and round in one sweep over the columns; obr restores what
wanda's mask took before it rounds; alphapruning is sparsegpt with a sparsity of its own for every layer. awq takes bits
alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, Literal

from compress.combinations import check_combination, check_numbers
from compress.errors import SchemeError, nearest_name
from compress.methods import (
    DEFAULT_PROPAGATE,
    TERNARY,
    WEIGHTS_ALONE,
    Allocation,
    InputActivations,
    Observer,
    Propagate,
    Width,
    nominal_bits,
    parse_name,
)
from compress.methods import Method as Method
from compress.overrides import Override, Overrides, parse_overrides, short_name
from compress.repair import Repair, parse_repair
from compress.sparsity import Pattern as Pattern
from compress.sparsity import check_pattern
from compress.sparsity import parse_sparsity as parse_sparsity

Platform = Literal["cpu", "cuda"]


class CheckpointFormat(StrEnum):
    AUTO = "auto"
    PACKED = "packed"
    DEQUANTIZED = "dequantized"


@dataclass(frozen=True)
class Scheme:
    """What is done to every linear weight of the decoder layers; embeddings, norms and the head stay as they are.

    num_bits: 2 to 8, or "ternary" (values -1, 0, 1 times a scale, log2(3) = 1.58 bits); None leaves 16-bit weights.
    group_size: input columns that share a scale, None = one scale per output channel. observer: how grids are fitted.
    average_bits: instead of num_bits, the stored bits a parameter of the whole model, with scales, embedding and head;
    `allocation` says who gets them. input_activations: with num_bits 8 per channel the engine also rounds the inputs,
    to int8 (W8A8) or fp8 (then the weights are fp8 too). sparsity: share of weights set to zero, in [0, 1). pattern:
    (n, m), n non-zeros of every m consecutive inputs; sparsity is then 1 - n/m. act_order: solve columns in order of
    falling diag(H), with the groups where they are, so that nothing more is stored. None becomes True for gptq and
    gptaq without sparsity, where it lowered the layer loss at every width (by 10 to 27 % on trained models of 1 and 7 M
    parameters), and False elsewhere: with masks it raised it. dampening_frac: share of mean diag(H) added to the
    diagonal. block_size: columns per mask block and per lazy update. propagate: what the inputs of a layer are measured
    on; None becomes DEFAULT_PROPAGATE. overrides: another rule for some modules, or the name of a preset, see
    overrides.py; only: a pattern, all other modules stay as they are. repair: what the compressed model learns
    afterwards, a mapping of `traces: FILE.jsonl` and the settings of a Distillation. Raises SchemeError with key,
    value and what it must be.
    """

    method: Method
    num_bits: Width | None = None
    group_size: int | None = None
    symmetric: bool = True
    sparsity: float = 0.0
    pattern: Pattern | None = None
    act_order: bool | None = None
    dampening_frac: float = 0.01
    block_size: int = 128
    propagate: Propagate | None = None
    overrides: Overrides = None
    only: str | None = None
    average_bits: float | None = None
    allocation: Allocation = Allocation.MEASURED
    observer: Observer = Observer.MINMAX
    input_activations: InputActivations | None = None
    repair: Repair | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", parse_name("method", Method, self.method))
        object.__setattr__(self, "allocation", parse_name("allocation", Allocation, self.allocation))
        object.__setattr__(self, "observer", parse_name("observer", Observer, self.observer))
        object.__setattr__(self, "repair", parse_repair(self.repair))
        if self.input_activations is not None:
            object.__setattr__(
                self, "input_activations", parse_name("input_activations", InputActivations, self.input_activations)
            )
        check_numbers(self)
        _set_propagate(self)
        if self.pattern is not None:
            _set_pattern(self, self.pattern)
        if self.act_order is None:
            object.__setattr__(self, "act_order", _default_act_order(self))
        check_combination(self)
        _check_rules(self)

    @property
    def needs_calibration(self) -> bool:
        """Whether the method, or the allocation of its bits, reads the inputs of each layer."""
        measured = self.average_bits is not None and self.allocation is Allocation.MEASURED
        return measured or self.method not in WEIGHTS_ALONE

    @property
    def chooses_propagate(self) -> bool:
        """Whether the method can be measured on either model's inputs: not where it reads none, nor gptaq."""
        return self.method not in WEIGHTS_ALONE and self.method is not Method.GPTAQ

    @property
    def has_grid(self) -> bool:
        """Whether weights are rounded to a grid, of one width or of several."""
        return self.num_bits is not None or self.average_bits is not None

    @property
    def nominal_bits(self) -> float | None:
        """Bits of one weight's code, scales left out: log2(3) for ternary; None for 16-bit weights or a budget."""
        return None if self.num_bits is None else nominal_bits(self.num_bits)

    @property
    def has_rules(self) -> bool:
        """Whether modules differ in what is done to them."""
        return self.overrides is not None or self.only is not None

    def changed_by(self, override: Override) -> Scheme | None:
        """What a module that the override names gets, None when it is left as it is. Raises SchemeError."""
        if override.skip:
            return None
        changes: dict[str, Any] = {"act_order": None if self.act_order == _default_act_order(self) else self.act_order}
        if override.num_bits is not None:
            changes["num_bits"] = override.num_bits
        if override.sparsity is not None:
            changes |= {"sparsity": override.sparsity, "pattern": override.pattern}
        try:
            return replace(self, overrides=None, only=None, repair=None, **changes)
        except SchemeError as error:
            key = f"overrides.{override.modules}.{error.key}"
            raise SchemeError(key, error.value, error.must, error.nearest) from None

    @property
    def name(self) -> str:
        """One word that tells schemes apart: gptq-w3-g64-sym, sparsegpt-2:4-w4-g64-sym, magnitude-s0.6."""
        parts = [str(self.method)]
        if self.pattern is not None:
            parts.append(f"{self.pattern[0]}:{self.pattern[1]}")
        elif self.sparsity > 0:
            parts.append(f"s{self.sparsity:g}")
        if self.has_grid:
            group = "channel" if self.group_size is None else f"g{self.group_size}"
            parts += [_name_width(self), group, "sym" if self.symmetric else "asym"]
        words = [*_unusual_settings(self), *short_name(self.overrides, self.only)]
        return "-".join([*parts, *words, *([self.repair.name] if self.repair else [])])

    def to_json(self) -> dict[str, Any]:
        """Plain values, as from_json reads them."""
        values = {key: str(value) if isinstance(value, StrEnum) else value for key, value in asdict(self).items()}
        overrides: Any = self.overrides
        if isinstance(overrides, tuple):
            overrides = {override.modules: override.to_json() for override in overrides}
        values |= {"pattern": list(self.pattern) if self.pattern else None, "overrides": overrides}
        repair = {"repair": self.repair.to_json()} if self.repair else {}
        return {**{key: value for key, value in values.items() if key != "repair"}, **repair}

    @classmethod
    def from_json(cls, mapping: Mapping[str, Any]) -> Scheme:
        """Read a mapping with this class's keys; `sparsity` may also be a pattern such as "2:4".

        Raises SchemeError for an unknown key or an impossible value.
        """
        known = [field.name for field in fields(cls)]
        for key in mapping:
            if key not in known:
                raise SchemeError(key, "unknown", f"one of {', '.join(known)}", nearest_name(key, known))
        values = dict(mapping)
        if isinstance(values.get("sparsity"), str):
            values["sparsity"], values["pattern"] = parse_sparsity(values["sparsity"])
        if isinstance(values.get("pattern"), list):
            values["pattern"] = tuple(values["pattern"])
        return cls(**values)


def check_shape(scheme: Scheme, name: str, num_rows: int, num_columns: int) -> None:
    """Raise SchemeError when a weight [num_rows, num_columns] cannot be cut into this scheme's groups or patterns."""
    if scheme.has_grid and scheme.group_size and num_columns % scheme.group_size:
        raise SchemeError(
            "group_size",
            scheme.group_size,
            f"a divisor of every layer's inputs; {name} has {num_columns}",
            str(_nearest_divisor(num_columns, scheme.group_size)),
        )
    if scheme.pattern and num_columns % scheme.pattern[1]:
        raise SchemeError(
            "sparsity",
            f"{scheme.pattern[0]}:{scheme.pattern[1]}",
            f"n:m with m a divisor of every layer's inputs; {name} has {num_columns}",
        )


def _check_rules(scheme: Scheme) -> None:
    object.__setattr__(scheme, "overrides", parse_overrides(scheme.overrides))
    if isinstance(scheme.only, int) and not isinstance(scheme.only, bool):
        object.__setattr__(scheme, "only", str(scheme.only))
    if scheme.only is not None and (not isinstance(scheme.only, str) or not scheme.only):
        raise SchemeError("only", scheme.only, "a pattern of module names, such as mlp.down_proj")
    for override in scheme.overrides if isinstance(scheme.overrides, tuple) else ():
        scheme.changed_by(override)


def _set_propagate(scheme: Scheme) -> None:
    """Methods that look at no inputs are measured on those of the dense model."""
    chosen = Propagate.DENSE if scheme.method in WEIGHTS_ALONE else DEFAULT_PROPAGATE
    if scheme.method is Method.GPTAQ:
        chosen = Propagate.COMPRESSED
    if scheme.propagate is not None:
        chosen = parse_name("propagate", Propagate, scheme.propagate)
        if chosen is Propagate.COMPRESSED and scheme.method in WEIGHTS_ALONE:
            raise SchemeError("propagate", chosen, f"left out for {scheme.method}, which reads no inputs")
        if chosen is Propagate.DENSE and scheme.method is Method.GPTAQ:
            raise SchemeError("propagate", chosen, "compressed for gptaq: on dense inputs it is gptq")
    object.__setattr__(scheme, "propagate", chosen)


def _set_pattern(scheme: Scheme, pattern: Pattern) -> None:
    check_pattern(pattern)
    sparsity = 1 - pattern[0] / pattern[1]
    if scheme.sparsity not in (0.0, sparsity):
        raise SchemeError("sparsity", scheme.sparsity, f"{sparsity:g}, as the pattern {pattern[0]}:{pattern[1]} says")
    object.__setattr__(scheme, "pattern", (pattern[0], pattern[1]))
    object.__setattr__(scheme, "sparsity", sparsity)


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [size for size in range(2, min(number, 4096) + 1) if number % size == 0] or [number]
    return min(divisors, key=lambda size: abs(size - wanted))


def _default_act_order(scheme: Scheme) -> bool:
    return scheme.method in (Method.GPTQ, Method.GPTAQ) and scheme.sparsity == 0


def _name_width(scheme: Scheme) -> str:
    if scheme.average_bits is not None:
        return f"avg{scheme.average_bits:g}"
    if scheme.input_activations is not None:
        return f"w8a8-{scheme.input_activations}"
    return TERNARY if scheme.num_bits == TERNARY else f"w{scheme.num_bits}"


def _unusual_settings(scheme: Scheme) -> list[str]:
    defaults = {field.name: field.default for field in fields(Scheme)}
    words = [] if scheme.allocation is Allocation.MEASURED else [str(scheme.allocation)]
    if scheme.observer is not Observer.MINMAX:
        words.append(str(scheme.observer))
    if scheme.act_order != _default_act_order(scheme):
        words.append("actorder" if scheme.act_order else "inorder")
    if scheme.needs_calibration and scheme.dampening_frac != defaults["dampening_frac"]:
        words.append(f"damp{scheme.dampening_frac:g}")
    if scheme.needs_calibration and scheme.block_size != defaults["block_size"]:
        words.append(f"block{scheme.block_size}")
    if scheme.chooses_propagate and scheme.propagate is not DEFAULT_PROPAGATE:
        words.append(str(scheme.propagate))
    return words

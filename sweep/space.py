"""The trials of a study: baselines, the whole grid, random draws from it, or one suggestion at a time."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from compress.families import linear_shapes
from compress.scheme import CheckpointFormat, Scheme
from compress.servable import servable
from sweep.config import ModelConfig, SpaceBlock, StudyConfig, make_scheme
from sweep.known_models import find_shapes


@dataclass(frozen=True)
class TrialConfig:
    """One model under one scheme; scheme None = the baseline, as it comes."""

    model: ModelConfig
    scheme: Scheme | None

    @property
    def name(self) -> str:
        """MODEL/SCHEME, such as pocket-llama-7m/gptq-w3-g64-sym, or MODEL/baseline."""
        return f"{self.model.name}/{self.scheme.name if self.scheme else 'baseline'}"


class SuggestsCategorical(Protocol):
    """What suggest needs of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


def baselines(study: StudyConfig) -> tuple[TrialConfig, ...]:
    """One trial for each model, without compression."""
    return tuple(TrialConfig(model, None) for model in study.models)


def grid(study: StudyConfig) -> tuple[TrialConfig, ...]:
    """Every model under every scheme of every block, without repeats (two schemes of one name do the same).

    Grouped by model and within it by the layout that the engine sees, so that few engines are started.
    """
    trials: dict[str, TrialConfig] = {}
    for model in study.models:
        schemes = [scheme for block in study.space for scheme in block.schemes()]
        linear = linear_shapes(find_shapes(model) or {})
        for scheme in sorted(schemes, key=lambda scheme: _layout(study, scheme, linear)):
            trial = TrialConfig(model, scheme)
            trials.setdefault(trial.name, trial)
    return tuple(trials.values())


def random_trials(study: StudyConfig) -> tuple[TrialConfig, ...]:
    """search.num_trials draws from the grid, seeded; none is repeated before the whole grid was drawn."""
    everything = grid(study)
    wanted = study.search.num_trials or len(everything)
    source = random.Random(study.seed)
    drawn: list[TrialConfig] = []
    while len(drawn) < wanted:
        drawn += source.sample(everything, k=min(len(everything), wanted - len(drawn)))
    return tuple(drawn)


def suggest(study: StudyConfig, trial: SuggestsCategorical) -> TrialConfig:
    """Let an Optuna-like trial choose: "model", "block", then each key of that block with more than one value.

    A block's keys are called BLOCK.KEY (such as 0.num_bits): one name always has the same choices.
    """
    names = [model.name for model in study.models]
    model = study.models[names.index(trial.suggest_categorical("model", names))]
    index = trial.suggest_categorical("block", list(range(len(study.space))))
    block = study.space[index]
    values = {}
    for key in SpaceBlock.model_fields:
        choices = getattr(block, key)
        values[key] = trial.suggest_categorical(f"{index}.{key}", list(choices)) if len(choices) > 1 else choices[0]
    return TrialConfig(model, make_scheme(values))


def checkpoint_format(
    study: StudyConfig, scheme: Scheme | None, linear: Mapping[str, tuple[int, int]]
) -> CheckpointFormat:
    """PACKED or DEQUANTIZED, as `format` asks or as auto chooses for weights of these shapes on this platform."""
    if study.format is CheckpointFormat.AUTO:
        return servable(scheme, study.platform, linear)
    return CheckpointFormat.DEQUANTIZED if scheme is None else study.format


def _layout(study: StudyConfig, scheme: Scheme, linear: Mapping[str, tuple[int, int]]) -> tuple[object, ...]:
    """Dequantized first, as the baseline is; packed ones by what an engine must be started anew for."""
    if checkpoint_format(study, scheme, linear) is CheckpointFormat.DEQUANTIZED:
        return (0,)
    return (1, str(scheme.num_bits), scheme.group_size or 0, scheme.symmetric, str(scheme.input_activations))

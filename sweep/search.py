"""From a study's search to what Ray Tune runs: a fixed list of trials, or Optuna's proposals one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from ray import tune

from sweep.config import StudyConfig
from sweep.space import TrialConfig, baselines, grid, random_trials, suggest

SAMPLERS = {"tpe": "TPESampler", "nsga2": "NSGAIISampler"}  # search.algorithm: Optuna's sampler
TRIAL = "trial"  # the key of Tune's config that names the trial


@dataclass(frozen=True)
class Phase:
    """One pass of Ray Tune: a search algorithm (None = the listed trials) and how many trials it makes."""

    param_space: dict[str, Any]
    search_alg: Any | None
    num_samples: int


def make_phases(study: StudyConfig, proposals: Sequence[dict[str, Any]]) -> list[Phase]:
    """Baselines first, then the search.

    proposals: parameters that an interrupted launch of this study had proposed, asked again in their order; the ones
    that were finished are answered from the stores, so the sampler learns what it knew.
    """
    first = list(dict.fromkeys(trial.name for trial in baselines(study)))
    match study.search.algorithm:
        case "grid":
            return [_listed(_by_model(first, [trial.name for trial in grid(study)], study.slots.count))]
        case "random":
            return [_listed(_by_model(first, [trial.name for trial in random_trials(study)], study.slots.count))]
        case algorithm:
            searcher = _optuna(study, algorithm, proposals)
            return [_listed(first), Phase({}, searcher, int(study.search.num_trials or 0))]


def find_trial(study: StudyConfig, name: str) -> TrialConfig:
    """The trial of that name, from the baselines and the whole grid."""
    return next(trial for trial in [*baselines(study), *grid(study)] if trial.name == name)


def _listed(names: Sequence[str]) -> Phase:
    return Phase({TRIAL: tune.grid_search(list(names))}, None, 1)


def _by_model(baseline_names: Sequence[str], names: Sequence[str], num_slots: int) -> list[str]:
    """Each model's baseline, then its trials, as many models in turn as there are slots: an engine of a model stays in
    its slot for all of them.
    """
    of_model = {name.split("/")[0]: [name] for name in baseline_names}
    for name in names:
        of_model[name.split("/")[0]].append(name)
    together = [list(of_model.values())[first : first + num_slots] for first in range(0, len(of_model), num_slots)]
    turns = chain.from_iterable(zip_longest(*models) for models in together)
    return [name for turn in turns for name in turn if name is not None]


def _optuna(study: StudyConfig, algorithm: str, proposals: Sequence[dict[str, Any]]) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = getattr(optuna.samplers, SAMPLERS[algorithm])
    return OptunaSearch(
        space=_Proposer(study),
        metric=list(study.objectives),
        mode=list(study.objectives.values()),
        # With the same seed the first new proposals would be those that are asked again.
        sampler=sampler(seed=study.seed + len(proposals)),
        points_to_evaluate=[dict(params) for params in proposals] or None,
    )


@dataclass(frozen=True)
class _Proposer:
    """One trial's name by an Optuna trial's choices; no closure, because Ray Tune pickles its searcher."""

    study: StudyConfig

    def __call__(self, trial: Any) -> dict[str, str]:
        return {TRIAL: suggest(self.study, trial).name}

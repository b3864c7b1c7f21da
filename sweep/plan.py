"""What a launch would do: trials, sizes, questions, disk. Reads config.json files and asks for free space; writes
nothing and starts nothing.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from compress.families import Shapes, count_parameters, linear_shapes
from compress.scheme import CheckpointFormat
from compress.servable import packed_obstacle
from compress.size import BYTES_PER_VALUE, deployable_size
from evaluate.benchmarks import BENCHMARKS
from sweep.config import ModelConfig, StudyConfig
from sweep.engine_args import engine_arguments
from sweep.inputs import launch_obstacles, num_questions
from sweep.known_models import KNOWN_CONFIGS, find_shapes, nearest_known
from sweep.space import TrialConfig, baselines, checkpoint_format, grid, random_trials

# Room for one answer's line beside its text, and bytes of text per token (English: about 4).
ANSWER_BYTES, BYTES_PER_TOKEN = 1000, 4


@dataclass(frozen=True)
class TrialPlan:
    """One trial. Sizes in GB, None where the model's shapes are unknown; `why` says what chose the format."""

    name: str
    model: str
    scheme: str | None
    format: CheckpointFormat
    why: str
    effective_bits: float | None
    checkpoint_gb: float | None
    served_gb: float | None
    num_questions: int


@dataclass(frozen=True)
class Plan:
    """trials: those known beforehand; num_open more are chosen while the study runs (tpe, nsga2). store_gb: what the
    checkpoints and answers take at most; download_gb: of Hub models. notes: what could not be looked up or is missing.
    """

    study: str
    platform: str
    algorithm: str
    grid_size: int
    trials: tuple[TrialPlan, ...]
    num_baselines: int
    num_open: int
    questions: dict[str, int]
    num_questions: int
    store: Path
    store_gb: float | None
    disk_free_gb: float
    download_gb: float
    notes: tuple[str, ...]

    @property
    def num_trials(self) -> int:
        """Baselines and compressed trials, the open ones too."""
        return len(self.trials) + self.num_open

    @property
    def disk_holds_it(self) -> bool | None:
        """Whether the store's disk has the room; None when the sizes are unknown."""
        return None if self.store_gb is None else self.store_gb <= self.disk_free_gb

    @property
    def headline(self) -> str:
        """STUDY: N trials, ..."""
        room = "unknown" if self.store_gb is None else f"at most {show_gb(self.store_gb)}"
        fits = {True: "holds it", False: "DOES NOT HOLD IT", None: "may or may not hold it"}[self.disk_holds_it]
        disk = f"disk {fits} ({show_gb(self.disk_free_gb)} free)"
        return f"{self.study}: {self.num_trials} trials, {self.num_questions:,} questions, store {room}, {disk}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; the keys are this class's, with num_trials and disk_holds_it."""
        plain = {**asdict(self), "store": str(self.store), "notes": list(self.notes)}
        return plain | {"num_trials": self.num_trials, "disk_holds_it": self.disk_holds_it}


def make_plan(study: StudyConfig) -> Plan:
    """What launching the study would run, store and ask."""
    shapes = {model.name: find_shapes(model) for model in study.models}
    questions = {benchmark.name: num_questions(study, benchmark) for benchmark in study.benchmarks}
    per_trial = sum(questions.values()) * study.sampling.num_completions
    everything = grid(study)
    match study.search.algorithm:
        case "grid":
            chosen, num_open = everything, 0
        case "random":
            chosen, num_open = random_trials(study), 0
        case "tpe" | "nsga2":
            chosen, num_open = (), study.search.num_trials or 0
    trials = [_plan_trial(study, trial, shapes[trial.model.name], per_trial) for trial in (*baselines(study), *chosen)]
    candidates = [_plan_trial(study, trial, shapes[trial.model.name], per_trial) for trial in everything]
    distinct = {trial.name: trial for trial in trials}.values()  # a repeated draw is answered from the store
    asked = sum(trial.num_questions for trial in distinct) + per_trial * num_open
    return Plan(
        study=study.study,
        platform=study.platform,
        algorithm=study.search.algorithm,
        grid_size=len(everything),
        trials=tuple(trials),
        num_baselines=len(study.models),
        num_open=num_open,
        questions=questions,
        num_questions=asked,
        store=study.store,
        store_gb=_store_gb(study, list(distinct), candidates, num_open, asked),
        disk_free_gb=_disk_free_gb(study.store),
        download_gb=sum(BYTES_PER_VALUE * count_parameters(known) / 1e9 for known in _downloads(study, shapes)),
        notes=tuple(_notes(study, shapes)),
    )


def render_plan(plan: Plan) -> Iterator[RenderableType]:
    """Lines and one table for a rich console, the headline first."""
    yield plan.headline
    rest = len(plan.trials) - plan.num_baselines
    counts = f"{plan.num_baselines} baselines and {rest + plan.num_open} compressed"
    yield f"  {counts} ({plan.algorithm}, a grid of {plan.grid_size})"
    asked = ", ".join(f"{name} {size}" for name, size in plan.questions.items())
    yield f"  questions of a trial: {asked}; unless decoding is greedy, a baseline is asked with two seeds"
    if plan.download_gb:
        yield f"  from the Hub: {show_gb(plan.download_gb)} of base models, into the Hub's own cache"
    table = Table("trial", "served", box=None, pad_edge=False)
    for title in ("effective bits", "deployable", "served", "questions"):
        table.add_column(title, justify="right")
    for trial in plan.trials:
        bits = "?" if trial.effective_bits is None else f"{trial.effective_bits:.2f}"
        form = "as it comes" if trial.scheme is None else trial.format.value
        sizes = show_gb(trial.checkpoint_gb), show_gb(trial.served_gb)
        table.add_row(trial.name, form, bits, *sizes, f"{trial.num_questions:,}")
    yield table
    compressed = [trial for trial in plan.trials if trial.scheme is not None]
    for (form, why), count in Counter((trial.format, trial.why) for trial in compressed).items():
        yield f"  {count} {form.value} on {plan.platform}: {why}"
    if plan.num_open:
        yield f"  {plan.num_open} more are chosen by {plan.algorithm} while the study runs"
    for note in plan.notes:
        yield f"  note: {note}"


def show_gb(size_gb: float | None) -> str:
    """GB with three digits, MB below a hundredth."""
    if size_gb is None:
        return "?"
    return f"{size_gb * 1000:.3g} MB" if size_gb < 0.1 else f"{size_gb:,.1f} GB"


def _plan_trial(study: StudyConfig, trial: TrialConfig, shapes: Shapes | None, asked: int) -> TrialPlan:
    linear = linear_shapes(shapes or {})
    form = checkpoint_format(study, trial.scheme, linear)
    plan = TrialPlan(
        name=trial.name,
        model=trial.model.name,
        scheme=trial.scheme.name if trial.scheme else None,
        format=form,
        why=_why(study, trial, form, linear),
        effective_bits=None,
        checkpoint_gb=None,
        served_gb=None,
        num_questions=asked * (1 if trial.scheme else len(study.baseline_seeds)),
    )
    if shapes is None:
        return plan
    size = deployable_size(shapes, trial.scheme)
    dense_gb = BYTES_PER_VALUE * size.num_parameters / 1e9
    served_gb = size.checkpoint_gb if form is CheckpointFormat.PACKED else dense_gb
    return replace(plan, effective_bits=size.effective_bits, checkpoint_gb=size.checkpoint_gb, served_gb=served_gb)


def _why(study: StudyConfig, trial: TrialConfig, form: CheckpointFormat, linear: dict[str, tuple[int, int]]) -> str:
    if trial.scheme is None:
        return "the model as it comes"
    if study.format is not CheckpointFormat.AUTO:
        return f"format: {study.format.value}"
    if form is CheckpointFormat.PACKED:
        return f"vLLM has a kernel for packed {trial.scheme.num_bits}-bit weights"
    return str(packed_obstacle(trial.scheme, study.platform, linear))


def _store_gb(
    study: StudyConfig, trials: list[TrialPlan], candidates: list[TrialPlan], num_open: int, asked: int
) -> float | None:
    sizes = [trial.served_gb for trial in trials if trial.scheme]
    possible = [trial.served_gb for trial in candidates]
    if None in sizes or None in possible:
        return None
    largest = max(size or 0 for size in possible)
    return (
        sum(size or 0 for size in sizes)
        + num_open * largest
        + asked * (ANSWER_BYTES + BYTES_PER_TOKEN * study.sampling.max_tokens) / 1e9
    )


def _disk_free_gb(store: Path) -> float:
    existing = next(folder for folder in (store, *store.parents) if folder.exists())
    return shutil.disk_usage(existing).free / 1e9


def _downloads(study: StudyConfig, shapes: dict[str, Shapes | None]) -> list[Shapes]:
    return [known for model in study.models if model.hub is not None and (known := shapes[model.name]) is not None]


def _notes(study: StudyConfig, shapes: dict[str, Shapes | None]) -> Iterator[str]:
    for index, model in enumerate(study.models):
        if model.hub is not None:
            yield f"models.{index}: {_hub_note(model, known=shapes[model.name] is not None)}"
    for index, benchmark in enumerate(study.benchmarks):
        if benchmark.file is None and not BENCHMARKS[benchmark.name].generated:
            questions = f"benchmarks.{index}: the questions of {benchmark.name}"
            yield f"{questions} were not looked up; a launch fetches them from the Hub, unless file: is given"
    if engine_arguments() is None:
        yield "vLLM is not installed here: the names in engine.engine_kwargs were not checked"
    for refusal in launch_obstacles(study):
        yield f"before a launch: {refusal.sentence}"


def _hub_note(model: ModelConfig, *, known: bool) -> str:
    if known:
        shapes = "shapes known offline" if model.hub in KNOWN_CONFIGS else "shapes from the Hub's local cache"
        return f"{model.source} was not looked up on the Hub ({shapes}; revision and weights unchecked)"
    nearest = nearest_known(str(model.hub))
    hint = f"; the nearest name known here is {nearest}" if nearest else ""
    return f"{model.source} could not be looked up offline: sizes and group_size are unchecked{hint}"

"""The typed study: what a YAML file says, checked once. `load_study` is the one way in.

Every number has a finite range; an unknown key is refused with the nearest valid one. What one value can tell alone is
checked here, what needs two keys, a folder or an installed package in checks.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from compress.errors import SchemeError
from compress.methods import Allocation, Method, Observer, Width
from compress.repair import parse_repair
from compress.scheme import CheckpointFormat, Platform, Scheme, parse_sparsity
from sweep.fields import (
    check_day,
    check_path,
    choices,
    is_flag,
    is_flag_or_none,
    is_mapping_or_none,
    is_number,
    is_number_or_none,
    is_rules,
    is_share,
    is_text,
    is_text_or_none,
    is_whole,
    is_whole_or_none,
    is_width_or_none,
    number,
    one_of,
    spell_out,
    text,
    whole,
)
from sweep.parsing import Refusal, apply_overrides, config_error, read_study_file, refusals_of, valid_keys

MAX_SEED = 2**31 - 2  # a baseline's second evaluation takes the next one
# Keys that change how a study runs but not what it measures: a study may be resumed with others.
RUNTIME_KEYS = frozenset({"slots", "concurrency", "store"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(_Frozen):
    """A base model: a local folder (`path`) or a Hugging Face name (`hub`, with its `revision`)."""

    path: Annotated[Path, BeforeValidator(check_path)] | None = None
    hub: Annotated[str, text(r"[\w.-]{1,96}/[\w.-]{1,96}", "owner/name, as the Hub writes it")] | None = None
    revision: Annotated[str, text(r"[\w./-]{1,128}", "a branch, tag or commit of the Hub")] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ModelConfig:
        if (self.path is None) == (self.hub is None):
            raise Refusal("a mapping with one of path: FOLDER or hub: OWNER/NAME")
        if self.path is not None and self.revision is not None:
            raise Refusal("left out beside path: only hub: has revisions", key="revision", value=self.revision)
        return self

    @property
    def name(self) -> str:
        """The folder's name, or the Hub's name without its owner."""
        return self.path.name if self.path is not None else str(self.hub).split("/")[1]

    @property
    def source(self) -> str:
        """Where it comes from, in one word for the logs: the folder, or owner/name@revision."""
        return str(self.path) if self.path is not None else f"{self.hub}@{self.revision or 'main'}"


class SpaceBlock(_Frozen):
    """One block of the search space: every key takes a value or a list, and the lists multiply to schemes."""

    method: Annotated[tuple[str, ...], choices(is_text, f"one of {', '.join(Method)}")]
    sparsity: Annotated[tuple[float | str, ...], choices(is_share, "a share in [0, 1) or n:m")] = (0.0,)
    num_bits: Annotated[
        tuple[Width | None, ...], choices(is_width_or_none, "a whole number from 2 to 8, or ternary")
    ] = (None,)
    group_size: Annotated[tuple[int | None, ...], choices(is_whole_or_none, "a whole number or null")] = (None,)
    symmetric: Annotated[tuple[bool, ...], choices(is_flag, "true or false")] = (True,)
    act_order: Annotated[tuple[bool | None, ...], choices(is_flag_or_none, "true, false or null")] = (None,)
    dampening_frac: Annotated[tuple[float, ...], choices(is_number, "a number in (0, 1]")] = (0.01,)
    block_size: Annotated[tuple[int, ...], choices(is_whole, "a whole number of columns")] = (128,)
    observer: Annotated[tuple[str, ...], choices(is_text, f"one of {', '.join(Observer)}")] = (Observer.MINMAX,)
    average_bits: Annotated[tuple[float | None, ...], choices(is_number_or_none, "a number of bits or null")] = (None,)
    allocation: Annotated[tuple[str, ...], choices(is_text, f"one of {', '.join(Allocation)}")] = (Allocation.MEASURED,)
    input_activations: Annotated[tuple[str | None, ...], choices(is_text_or_none, "int8, fp8 or null")] = (None,)
    propagate: Annotated[tuple[str | None, ...], choices(is_text_or_none, "compressed, dense or null")] = (None,)
    overrides: Annotated[
        tuple[dict[str | int, dict[str, Any]] | str | None, ...], choices(is_rules, "a preset or rules by module")
    ] = (None,)
    only: Annotated[tuple[str | None, ...], choices(is_text_or_none, "a pattern of module names, or null")] = (None,)
    repair: Annotated[
        tuple[dict[str, Any] | None, ...], choices(is_mapping_or_none, "a mapping with traces: FILE.jsonl, or null")
    ] = (None,)

    @model_validator(mode="before")
    @classmethod
    def _name_repairs_by_content(cls, values: object) -> object:
        """Paths become absolute and hashes are added: who resumes a study elsewhere means the same traces."""
        if not isinstance(values, dict) or "repair" not in values:
            return values
        given = values["repair"] if isinstance(values["repair"], list | tuple) else [values["repair"]]
        try:
            repairs = [parse_repair(repair) for repair in given]
        except SchemeError as error:
            raise Refusal.of(error, "") from None
        return {**values, "repair": [repair and repair.to_json() for repair in repairs]}

    @model_validator(mode="after")
    def _every_scheme_is_possible(self) -> SpaceBlock:
        try:
            for _ in self.schemes():
                pass
        except SchemeError as error:
            raise Refusal.of(error, "") from None
        return self

    def schemes(self) -> Iterator[Scheme]:
        """Every combination of the lists, the last key varying quickest. Raises SchemeError for an impossible one."""
        keys = list(type(self).model_fields)
        for values in product(*(getattr(self, key) for key in keys)):
            yield make_scheme(dict(zip(keys, values, strict=True)))


class SearchConfig(_Frozen):
    """How the space is searched. num_trials: compressed trials, baselines apart; a grid counts its own."""

    algorithm: Annotated[Literal["grid", "random", "tpe", "nsga2"], one_of(["grid", "random", "tpe", "nsga2"])] = "grid"
    num_trials: Annotated[int, whole(1, 100_000)] | None = None

    @model_validator(mode="after")
    def _trials_fit_the_algorithm(self) -> SearchConfig:
        if self.algorithm == "grid" and self.num_trials is not None:
            must = "left out for algorithm grid: it runs every combination"
            raise Refusal(must, key="num_trials", value=self.num_trials)
        if self.algorithm != "grid" and self.num_trials is None:
            raise Refusal(f"a whole number from 1 to 100000 for algorithm {self.algorithm}", key="num_trials")
        return self


class BenchmarkConfig(_Frozen):
    """A benchmark by name. file: its data in the publisher's format. num_problems: instead of the study's own."""

    name: Annotated[str, text(r"\w{1,64}", "the name of a benchmark")]
    file: Annotated[Path, BeforeValidator(check_path)] | None = None
    num_problems: Annotated[int, whole(1, 1_000_000)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return spell_out(value)


class SamplingConfig(_Frozen):
    """How completions are drawn, in vLLM's terms. temperature 0 is greedy."""

    temperature: Annotated[float, number(0, 2)] = 0.6
    top_p: Annotated[float, number(0, 1, above=True)] = 0.95
    max_tokens: Annotated[int, whole(1, 1_000_000)]
    num_completions: Annotated[int, whole(1, 1024)] = 1


class CalibrationConfig(_Frozen):
    """What gptq and sparsegpt read: train-side items of the study's generated tasks (source: tasks), or a text file.
    first_token_weight: how often a row's first token counts in the Hessians of queries, keys and values.
    """

    source: Annotated[Literal["tasks"], one_of(["tasks"])] | None = None
    file: Annotated[Path, BeforeValidator(check_path)] | None = None
    num_samples: Annotated[int, whole(1, 100_000)] = 128
    max_seq_length: Annotated[int, whole(8, 131_072)] = 512
    first_token_weight: Annotated[float, number(0, 1e6, above=True)] = 1

    @model_validator(mode="after")
    def _one_source(self) -> CalibrationConfig:
        if self.source is not None and self.file is not None:
            must = "left out (or null) beside file: the text comes from one of them"
            raise Refusal(must, key="source", value=self.source)
        if self.file is not None and self.file.suffix not in (".txt", ".jsonl"):
            raise Refusal("a .txt or .jsonl file", key="file", value=self.file)
        return self


class SlotsConfig(_Frozen):
    """What a trial takes while it compresses and then serves. num_gpus: of one slot."""

    count: Annotated[int, whole(1, 4096)] = 1
    num_gpus: Annotated[int, whole(0, 64)] = 0


class CompressConfig(_Frozen):
    """The actor that compresses; several GPUs share the schemes of its pass. hessians_gb: disk in the store for what
    schemes that propagate dense measured, so that later proposals of a search need not measure it again; 0 keeps
    nothing.
    """

    num_gpus: Annotated[int, whole(0, 64)] = 0
    hessians_gb: Annotated[float, number(0, 1e6)] = 0


class EngineConfig(_Frozen):
    """The vLLM engine. engine_kwargs: vLLM's engine arguments by their own names."""

    num_gpus: Annotated[int, whole(0, 64)] = 0
    start_timeout_s: Annotated[float, number(1, 86_400)] = 600
    engine_kwargs: dict[str, Any] = {}


class StudyConfig(_Frozen):
    """One study, as load_study returns it: every path absolute, every combination possible."""

    study: Annotated[str, text(r"[a-z0-9][a-z0-9-]{0,62}", "1 to 63 of a-z, 0-9 and -, such as my-study")]
    seed: Annotated[int, whole(0, MAX_SEED)] = 0
    models: tuple[ModelConfig, ...]
    space: tuple[SpaceBlock, ...]
    search: SearchConfig = SearchConfig()
    benchmarks: tuple[BenchmarkConfig, ...]
    num_problems: Annotated[int, whole(1, 1_000_000)] | None = None
    sampling: SamplingConfig
    calibration: CalibrationConfig = CalibrationConfig()
    format: Annotated[CheckpointFormat, one_of([str(name) for name in CheckpointFormat])] = CheckpointFormat.AUTO
    objectives: dict[str, Annotated[Literal["max", "min"], one_of(["max", "min"])]] = {
        "accuracy": "max",
        "tokens_per_question": "min",
        "effective_bits": "min",
    }
    min_recovery: Annotated[float, number(0, 1)] = 0.5
    usd_per_hour: Annotated[float, number(0, 100_000)] = 0
    usd_per_hour_date: Annotated[date, BeforeValidator(check_day)] | None = None
    slots: SlotsConfig = SlotsConfig()
    compress: CompressConfig = CompressConfig()
    engine: EngineConfig = EngineConfig()
    concurrency: Annotated[int, whole(1, 65_536)] = 64
    store: Annotated[Path, BeforeValidator(check_path)] = Field(default_factory=lambda: Path("mlruns/store").absolute())

    @property
    def platform(self) -> Platform:
        """Which vLLM serves this study: cuda when an engine asks for GPUs."""
        return "cuda" if self.engine.num_gpus > 0 else "cpu"

    @property
    def baseline_seeds(self) -> tuple[int, ...]:
        """A baseline is evaluated once for each; two show the noise floor, which greedy decoding does not have."""
        return (self.seed, self.seed + 1) if self.sampling.temperature > 0 else (self.seed,)

    @property
    def content_hash(self) -> str:
        """Equal for studies that measure the same thing, however many slots they run on."""
        content = self.model_dump(mode="json", exclude=set(RUNTIME_KEYS))
        return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=12).hexdigest()


def make_scheme(values: Mapping[str, Any]) -> Scheme:
    """One choice of a block's keys as a scheme. Raises SchemeError for an impossible one."""
    sparsity, pattern = parse_sparsity(values["sparsity"])
    return Scheme(**{**values, "sparsity": sparsity, "pattern": pattern})


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study from its YAML with `dotted.key=value` overrides; relative paths are relative to the current folder.

    Raises ConfigError with at most three lines.
    """
    from sweep.checks import check_study

    mapping = read_study_file(path)
    if isinstance(benchmarks := mapping.get("benchmarks"), list):  # so that an override reaches benchmarks.0.file
        mapping["benchmarks"] = [spell_out(benchmark) for benchmark in benchmarks]
    overridden = apply_overrides(mapping, overrides, str(path))
    try:
        study = StudyConfig.model_validate(mapping)
        check_study(study)
    except ValidationError as error:
        raise config_error(str(path), refusals_of(error, valid_keys(StudyConfig)), overridden) from None
    except Refusal as refusal:
        raise config_error(str(path), [refusal], overridden) from None
    return study

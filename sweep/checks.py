"""What a study's keys must be to each other, to the models' shapes, to the files on disk and to the installed vLLM.

Each check raises Refusal with the dotted key. Nothing is imported here that takes longer than a blink.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compress.errors import ModelError, SchemeError, nearest_name
from compress.families import linear_shapes
from compress.scheme import CheckpointFormat, check_shape
from compress.servable import dequantized_obstacle, packed_obstacle
from evaluate.benchmarks import BENCHMARKS
from evaluate.schema import Kind
from sweep.engine_args import check_engine_kwargs
from sweep.inputs import check_benchmarks, check_calibration
from sweep.known_models import find_context, find_shapes
from sweep.parsing import Refusal, Verbatim, show

if TYPE_CHECKING:
    from sweep.config import StudyConfig

# Every objective and the only direction in which it is better.
OBJECTIVES = {
    "accuracy": "max",
    "recovery": "max",
    "tokens_per_question": "min",
    "effective_bits": "min",
    "checkpoint_gb": "min",
    "usd_per_1k_questions": "min",
}
BY_BENCHMARK = ("accuracy", "tokens_per_question")


def check_study(study: StudyConfig) -> None:
    """Raise Refusal for the first thing in the study that cannot be run as it is written."""
    for check in (
        _check_names,
        _check_models,
        _check_space,
        _check_format,
        check_benchmarks,
        _check_objectives,
        _check_price,
        _check_devices,
        _check_engine,
        check_calibration,
        _check_store,
    ):
        check(study)


def _check_names(study: StudyConfig) -> None:
    for key, entries in (("models", study.models), ("space", study.space), ("benchmarks", study.benchmarks)):
        if not entries:
            raise Refusal("a list with at least one entry", key=key, value=[])
    named: tuple[tuple[str, Sequence[str]], ...] = (
        ("models", [model.name for model in study.models]),
        ("benchmarks", [benchmark.name for benchmark in study.benchmarks]),
    )
    for key, names in named:
        for index, name in enumerate(names):
            if name in names[:index]:
                must = f"a name of its own: {key}.{names.index(name)} is called {name} too"
                raise Refusal(must, key=f"{key}.{index}", value=name)


def _check_models(study: StudyConfig) -> None:
    for index, model in enumerate(study.models):
        try:
            find_shapes(model)
        except ModelError as error:
            key = error.key if error.key in ("path", "hub") else ""
            where = f"models.{index}" if key else f"models.{index}.{'path' if model.path else 'hub'}: its "
            raise Refusal.of(error, f"{where}." if key else where) from None


def _check_space(study: StudyConfig) -> None:
    for model in study.models:
        shapes = find_shapes(model)
        unique = {shape: name for name, shape in reversed(linear_shapes(shapes or {}).items())}
        for index, block in enumerate(study.space):
            for scheme in block.schemes():
                for shape, name in unique.items():
                    try:
                        check_shape(scheme, name, *shape)
                    except SchemeError as error:
                        raise Refusal.of(error, f"space.{index}.", f" in {model.name}") from None


def _check_format(study: StudyConfig) -> None:
    if study.format is CheckpointFormat.AUTO:
        return
    for model in study.models:
        linear = linear_shapes(find_shapes(model) or {})
        for index, block in enumerate(study.space):
            for scheme in block.schemes():
                packed = study.format is CheckpointFormat.PACKED
                obstacle = packed_obstacle(scheme, study.platform, linear) if packed else dequantized_obstacle(scheme)
                if obstacle:
                    other = "dequantized" if packed else "packed"
                    must = f"auto or {other}, for space.{index} ({scheme.name} of {model.name}): {obstacle}"
                    raise Refusal(must, key="format", value=str(study.format))


def _check_objectives(study: StudyConfig) -> None:
    names = [benchmark.name for benchmark in study.benchmarks]
    directions = OBJECTIVES | {f"{metric}.{name}": OBJECTIVES[metric] for metric in BY_BENCHMARK for name in names}
    reasons = any(BENCHMARKS[name].kind is Kind.REASONING for name in names)
    if not study.objectives:
        raise Refusal("a mapping of at least one objective to max or min", key="objectives", value={})
    for name, direction in study.objectives.items():
        key = f"objectives.{name}"
        if name not in directions:
            must = f"one of {', '.join(OBJECTIVES)}, or accuracy.BENCHMARK, tokens_per_question.BENCHMARK"
            raise Refusal(must, key=key, value=Verbatim("unknown"), nearest=nearest_name(name, directions))
        if direction != directions[name]:
            raise Refusal(f"{directions[name]}: {name} is better that way", key=key, value=direction)
        if name in ("accuracy", "recovery") and not reasons:
            must = f"accuracy.{names[0]}: {name} is the mean over reasoning benchmarks, and the study has none"
            raise Refusal(must, key=key, value=direction)
        if name == "usd_per_1k_questions" and study.usd_per_hour == 0:
            raise Refusal("above 0 for the objective usd_per_1k_questions", key="usd_per_hour", value=0)


def _check_price(study: StudyConfig) -> None:
    if study.usd_per_hour > 0 and study.usd_per_hour_date is None:
        raise Refusal("the day of the price, such as 2026-11-01, when usd_per_hour is above 0", key="usd_per_hour_date")


def _check_store(study: StudyConfig) -> None:
    existing = next(path for path in (study.store, *study.store.parents) if path.exists())
    if not existing.is_dir():
        raise Refusal(f"a folder, there or yet to be made; {show(existing)} is none", key="store", value=study.store)


def _check_devices(study: StudyConfig) -> None:
    held = study.slots.num_gpus
    for key, num_gpus in (("compress", study.compress.num_gpus), ("engine", study.engine.num_gpus)):
        if num_gpus > held:
            must = f"at most {held}, what a slot holds (slots.num_gpus)"
            raise Refusal(must, key=f"{key}.num_gpus", value=num_gpus)
    kwargs = study.engine.engine_kwargs
    check_engine_kwargs(kwargs)
    used = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        used *= kwargs.get(name, 1)
    if used != max(1, study.engine.num_gpus):
        must = f"{used}: tensor_parallel_size x pipeline_parallel_size x data_parallel_size in engine_kwargs"
        raise Refusal(must, key="engine.num_gpus", value=study.engine.num_gpus)


def _check_engine(study: StudyConfig) -> None:
    length, wanted = study.engine.engine_kwargs.get("max_model_len"), study.sampling.max_tokens
    if length is not None and length <= wanted:
        must = f"above sampling.max_tokens = {wanted}: the prompt needs room too"
        raise Refusal(must, key="engine.engine_kwargs.max_model_len", value=length)
    for model in study.models:
        context = find_context(model)
        if context is None or "hf_overrides" in study.engine.engine_kwargs:
            continue
        if length is not None and length > context:
            must = f"at most {context}, the context of {model.name}"
            raise Refusal(must, key="engine.engine_kwargs.max_model_len", value=length)
        if wanted >= context:
            must = f"below {context}, the context of {model.name}: the prompt needs room too"
            raise Refusal(must, key="sampling.max_tokens", value=wanted)

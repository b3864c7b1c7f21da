"""What a study reads from files: questions, calibration text, weights; each refusal is raised with its dotted key."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from compress.calibration import load_calibration
from compress.errors import CalibrationError, nearest_name
from evaluate.benchmarks import BENCHMARKS, load_benchmark
from evaluate.errors import EvaluateError
from sweep.known_models import find_context
from sweep.parsing import Refusal, Verbatim, show

if TYPE_CHECKING:
    from sweep.config import BenchmarkConfig, StudyConfig


def num_questions(study: StudyConfig, benchmark: BenchmarkConfig) -> int:
    """Problems that a trial is asked: what the study asks for, or as many as the benchmark has."""
    size = _size(benchmark)
    asked = benchmark.num_problems or study.num_problems or size or 0  # check_study has refused a study without any
    return min(asked, size or asked)


def launch_obstacles(study: StudyConfig) -> list[Refusal]:
    """What a dry run may leave open but a launch needs: the weights of local models, text to calibrate on."""
    must = "a folder with *.safetensors files; it has none"
    refusals = [
        Refusal(must, key=f"models.{index}.path", value=model.path)
        for index, model in enumerate(study.models)
        if model.path is not None and not any(model.path.glob("*.safetensors"))
    ]
    generated = any(BENCHMARKS[benchmark.name].generated for benchmark in study.benchmarks)
    reads_text = any(scheme.needs_calibration for block in study.space for scheme in block.schemes())
    if reads_text and study.calibration.file is None and not generated:
        must = "a .txt or .jsonl file: gptq and sparsegpt read text, and no benchmark here is generated"
        refusals.append(Refusal(must, key="calibration.file"))
    return refusals


def check_benchmarks(study: StudyConfig) -> None:
    """Raise Refusal for an unknown benchmark, a file that is not its own, or a number of problems it does not have."""
    for index, benchmark in enumerate(study.benchmarks):
        key = f"benchmarks.{index}"
        spec = BENCHMARKS.get(benchmark.name)
        if spec is None:
            nearest = nearest_name(benchmark.name, BENCHMARKS)
            raise Refusal(f"one of {', '.join(BENCHMARKS)}", key=f"{key}.name", value=benchmark.name, nearest=nearest)
        if benchmark.file is not None:
            _check_file(benchmark, f"{key}.file")
        size = _size(benchmark)
        if size is None and benchmark.num_problems is None and study.num_problems is None:
            must = f"a number of problems: {benchmark.name} is generated without end"
            raise Refusal(must, key="num_problems", value=None)
        if size is not None and benchmark.num_problems is not None and benchmark.num_problems > size:
            must = f"at most {size}, the size of {benchmark.name}"
            raise Refusal(must, key=f"{key}.num_problems", value=benchmark.num_problems)


def check_calibration(study: StudyConfig) -> None:
    """Raise Refusal for text that is missing, unreadable or too little, and for rows longer than a model's context."""
    calibration = study.calibration
    if calibration.file is not None:
        _check_text(calibration.file, calibration.num_samples)
    for model in study.models:
        context = find_context(model)
        if context is not None and calibration.max_seq_length > context:
            must = f"at most {context}, the context of {model.name}"
            raise Refusal(must, key="calibration.max_seq_length", value=calibration.max_seq_length)


def _check_file(benchmark: BenchmarkConfig, key: str) -> None:
    if BENCHMARKS[benchmark.name].generated:
        raise Refusal(f"left out: {benchmark.name} is generated", key=key, value=benchmark.file)
    if benchmark.file is None or not benchmark.file.is_file():
        raise Refusal(f"a file with the questions of {benchmark.name}", key=key, value=benchmark.file)
    try:
        _count_problems(benchmark.name, benchmark.file)
    except EvaluateError as error:
        must = f"the publisher's file of {benchmark.name} ({error})"
        raise Refusal(must, key=key, value=benchmark.file) from None


def _check_text(file: Path, num_samples: int) -> None:
    if not file.is_file():
        raise Refusal("a .txt or .jsonl file; there is none", key="calibration.file", value=file)
    try:
        found = load_calibration(file)
    except CalibrationError as error:
        where = f"{error.key}: " if error.key.startswith(str(file)) else ""  # FILE line N
        found_there = Verbatim(f"{where}{error.value}".replace(str(file), show(file)))
        raise Refusal(error.must, key="calibration.file", value=found_there) from None
    num_items = len(found.texts) + len(found.conversations)
    if not found.joined and num_items < num_samples:
        must = f"at most {num_items}, the items of {show(file)}"
        raise Refusal(must, key="calibration.num_samples", value=num_samples)


def _size(benchmark: BenchmarkConfig) -> int | None:
    """Problems in the benchmark's file, or in its published set; None when they are generated without end."""
    if benchmark.file is not None:
        return _count_problems(benchmark.name, benchmark.file)
    return BENCHMARKS[benchmark.name].num_problems


@cache
def _count_problems(name: str, file: Path) -> int:
    return len(load_benchmark(name, file=file).problems)

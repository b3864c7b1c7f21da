"""A study is parsed once: what is right comes out typed, what is wrong is refused in at most three telling lines."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from sweep import engine_args
from sweep.config import load_study
from sweep.errors import ConfigError

pytestmark = pytest.mark.usefixtures("workdir")
YAML = Path("study.yaml")


def refusal(*overrides: str, path: Path = YAML) -> str:
    with pytest.raises(ConfigError) as caught:
        load_study(path, overrides)
    message = str(caught.value)
    assert 1 <= len(message.splitlines()) <= 3
    assert all(str(path) in line for line in message.splitlines())
    return message


def test_yaml_1_2_scalars_are_a_pattern_and_a_number() -> None:
    study = load_study(YAML, ["space.1.dampening_frac=1e-4"])
    by_pattern = [scheme for scheme in study.space[1].schemes() if scheme.pattern == (2, 4)]
    assert [scheme.sparsity for scheme in by_pattern] == [0.5]
    assert by_pattern[0].dampening_frac == 0.0001


def test_defaults_and_absolute_paths(workdir: Path) -> None:
    study = load_study(YAML)
    assert study.models[0].path == workdir / "models" / "alpha"
    assert study.models[0].name == "alpha"
    assert study.store == workdir / "mlruns" / "store"
    assert study.platform == "cpu"
    assert study.objectives == {"accuracy": "max", "tokens_per_question": "min", "effective_bits": "min"}
    assert [benchmark.name for benchmark in study.benchmarks] == ["temporal", "recall"]


def test_repairs_are_stored_with_their_path_and_content(workdir: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": "a"}]} for q in "bc"]
    (workdir / "traces.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    study = load_study(YAML, ["space.0.repair={traces: traces.jsonl, num_steps: 3}"])
    (repair,) = study.space[0].repair
    assert repair is not None and repair["traces"] == str(workdir / "traces.jsonl")
    assert repair["num_steps"] == 3 and len(repair["traces_hash"]) == 16
    message = refusal("space.0.repair={traces: traces.jsonl, num_stps: 3}")
    assert "space.0.repair.num_stps is unknown" in message and "nearest: num_steps" in message
    assert "space.0.repair.traces is " in refusal("space.0.repair={traces: none.jsonl}")
    assert "space.0.repair is none.jsonl, must be a mapping" in refusal("space.0.repair=none.jsonl")


def test_overrides_reach_lists_mappings_and_named_benchmarks(workdir: Path) -> None:
    search = ["search.algorithm=tpe", "search.num_trials=5"]
    study = load_study(YAML, ["space.0.num_bits=[2]", *search, "benchmarks.1.num_problems=7", "seed=3"])
    assert study.space[0].num_bits == (2,)
    assert (study.search.algorithm, study.search.num_trials, study.seed) == ("tpe", 5, 3)
    assert study.benchmarks[1].num_problems == 7


def test_a_study_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load_study(YAML).seed = 3  # type: ignore[misc]


def test_a_stored_study_loads_to_the_same_study(workdir: Path) -> None:
    study = load_study(YAML, ["usd_per_hour=2.5", "usd_per_hour_date=2026-11-01", "format=dequantized"])
    (workdir / "stored.json").write_text(json.dumps(study.model_dump(mode="json")))
    stored = load_study(workdir / "stored.json")
    assert stored == study
    assert stored.content_hash == study.content_hash


def test_content_hash_follows_what_is_measured_and_not_where_it_runs() -> None:
    study = load_study(YAML)
    assert load_study(YAML, ["slots.count=4", "concurrency=8", "store=elsewhere"]).content_hash == study.content_hash
    for changed in ("seed=1", "num_problems=11", "sampling.max_tokens=200", "space.0.num_bits=[8, 4]"):
        assert load_study(YAML, [changed]).content_hash != study.content_hash


def test_greedy_baselines_are_evaluated_once() -> None:
    assert load_study(YAML).baseline_seeds == (0, 1)
    assert load_study(YAML, ["sampling.temperature=0"]).baseline_seeds == (0,)


WRONG = {
    "num_problem=3": ["num_problem is an unknown key", "nearest: num_problems"],
    "num_trials=3": ["num_trials is an unknown key", "nearest: search.num_trials"],
    "space.0.num_bit=3": ["space.0.num_bit is an unknown key", "nearest: num_bits"],
    "sampling=3": ["sampling is 3", "max_tokens"],
    "models={path: x}": ["models is", "must be a list"],
    "models=[]": ["models is []", "at least one"],
    "space=[]": ["space is []", "at least one"],
    "space.0.num_bits=[]": ["space.0.num_bits is []", "at least one"],
    "study=My Study": ["study is", "a-z"],
    "seed=1.5": ["seed is 1.5", "whole number"],
    "sampling.top_p=0": ["sampling.top_p is 0", "above 0"],
    "space.0.num_bits=9": ["space.0.num_bits is 9", "nearest: 8"],
    "space.0.num_bits=[4, 4.0]": ["space.0.num_bits is 4.0", "whole number"],
    "space.0.num_bits=null": ["space.0.num_bits is missing", "for rtn"],
    "space.0.group_size=48": ["space.0.group_size is 48", "divisor", "alpha", "nearest: 32"],
    "space.1.group_size=64": ["space.1.group_size is 64", "num_bits"],
    "space.1.sparsity=1": ["space.1.sparsity is 1", "[0, 1)"],
    "space.1.sparsity=-0.1": ["space.1.sparsity is -0.1", "[0, 1)"],
    "space.1.sparsity=4:2": ["space.1.sparsity is 4:2", "n < m"],
    "space.1.sparsity=3:7": ["space.1", "7"],
    "space.1.sparsity=0": ["space.1.sparsity is 0", "above 0 for sparsegpt"],
    "space.0.method=gptqq": ["space.0.method is gptqq", "nearest: gptq"],
    "benchmarks=[tempral]": ['benchmarks.0.name is "tempral"', "nearest: temporal"],
    "benchmarks=[temporal, temporal]": ["benchmarks.1", "benchmarks.0"],
    "benchmarks=[{}]": ["benchmarks.0.name is missing"],
    "benchmarks.0.file=x": ["benchmarks.0.file", "generated"],
    "benchmarks=[{name: aime, file: nowhere.jsonl}]": ["benchmarks.0.file", "nowhere.jsonl", "aime"],
    "benchmarks=[{name: aime, file: study.yaml}]": ["benchmarks.0.file", "study.yaml", "aime"],
    "benchmarks=[{name: aime, num_problems: 31}]": ["benchmarks.0.num_problems is 31", "at most 30"],
    "num_problems=null": ["num_problems is null", "temporal is generated"],
    "models.0.path=models/alfa": ["models.0.path is models/alfa", "does not exist", "nearest: models/alpha"],
    "models.0.path=.": ["models.0.path is .,", "it has none"],
    "models.1.path=models/alpha": ["models.1", "models.0 is called alpha"],
    "models.0={hub: alpha}": ['models.0.hub is "alpha"', "owner/name"],
    "models.0={hub: a/b, path: models/alpha}": ["models.0", "one of path"],
    "models.0.revision=main": ["models.0.revision", "left out"],
    "engine.engine_kwargs.model=x": ["engine.engine_kwargs.model", "left out", "models"],
    "engine.engine_kwargs.max_model_len=256": ["engine.engine_kwargs.max_model_len is 256", "max_tokens = 256"],
    "engine.engine_kwargs.max_model_len=2048": ["engine.engine_kwargs.max_model_len is 2048", "at most 1024"],
    "engine={engine_kwargs: {}, num_gpu: 1}": ["engine.num_gpu is an unknown key", "nearest: num_gpus"],
    "engine.num_gpus=1": ["engine.num_gpus is 1", "slots.num_gpus"],
    "compress.num_gpus=1": ["compress.num_gpus is 1", "slots.num_gpus"],
    "search.num_trials=4": ["search.num_trials is 4", "left out for algorithm grid"],
    "search.algorithm=tpe": ["search.num_trials is not given", "tpe"],
    "search={algorithm: tpee, num_trials: 3}": ["search.algorithm", "nearest: tpe"],
    "objectives.acuracy=max": ["objectives.acuracy", "nearest: accuracy"],
    "objectives={accuracy.logic: max}": ["objectives.accuracy.logic", "nearest: accuracy"],
    "objectives.accuracy=min": ["objectives.accuracy", "must be max"],
    "objectives={}": ["objectives is {}", "at least one"],
    "objectives={usd_per_1k_questions: min}": ["usd_per_hour is 0", "usd_per_1k_questions"],
    "benchmarks=[recall]": ["objectives.accuracy", "accuracy.recall"],
    "usd_per_hour=2": ["usd_per_hour_date is not given"],
    "usd_per_hour_date=yesterday": ["usd_per_hour_date", "2026-11-01"],
    "format=pack": ["format", "nearest: packed"],
    "format=packed": ["format", "rtn-w8-g64-sym", "no kernel"],
    "calibration.max_seq_length=4096": ["calibration.max_seq_length is 4096", "at most 1024"],
    "calibration.file=none.txt": ["calibration.file", "there is none"],
    "calibration.file=traces.pdf": ["calibration.file", ".jsonl"],
    "calibration={source: tasks, file: study.txt}": ["calibration.source", "left out"],
    "store=3": ["store is 3", "path"],
    "store=study.yaml/here": ["store is study.yaml/here", "study.yaml is none"],
}


@pytest.mark.parametrize(("override", "parts"), WRONG.items(), ids=WRONG.keys())
def test_a_refusal_names_key_value_and_what_it_must_be(override: str, parts: list[str]) -> None:
    message = refusal(override)
    assert all(part in message for part in parts), message


NUMBERS = (
    *("seed", "num_problems", "min_recovery", "usd_per_hour", "concurrency", "slots.count", "slots.num_gpus"),
    *(
        "compress.num_gpus",
        "engine.num_gpus",
        "engine.start_timeout_s",
        "search.num_trials",
        "benchmarks.0.num_problems",
    ),
    *("sampling.temperature", "sampling.top_p", "sampling.max_tokens", "sampling.num_completions"),
    *("calibration.num_samples", "calibration.max_seq_length", "calibration.first_token_weight"),
    "engine.engine_kwargs.max_model_len",
    *("space.0.num_bits", "space.0.group_size", "space.0.dampening_frac", "space.0.block_size", "space.1.sparsity"),
)


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [".nan", ".inf", "-1e9", "1e300", "true", "[[1]]", "'1'"])
def test_every_number_has_a_finite_range(key: str, value: str) -> None:
    if key == "space.1.sparsity" and value == "'1'":
        value = "'one half'"  # text is how a pattern is written
    assert f"{key} is" in refusal(f"{key}={value}")


@pytest.mark.parametrize(
    "override", ["seed", "=3", "a..b=3", "models.7.path=x", "models.x=3", "study.name=x", "seed=[1"]
)
def test_an_override_that_leads_nowhere_is_refused(override: str) -> None:
    assert "command line" in refusal(override)


def test_three_lines_stand_for_all_faults() -> None:
    message = refusal("seed=-1", "concurrency=0", "num_problems=0", "min_recovery=7", "store=3")
    assert len(message.splitlines()) == 3
    assert "(and 2 more)" in message


def test_the_command_line_is_named_only_for_its_own_faults(write_study: Callable[[str], Path]) -> None:
    assert "command line" in refusal("seed=-1")
    write_study(YAML.read_text() + "seed: -1\n")
    assert "command line" not in refusal("num_problems=5")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is empty"),
        ("- 1\n", "is a list"),
        ("just text", "is a text"),
        ("a: 1\nb: 2\na: 3\n", "line 3"),
        ("a: 1\nb:\n\t- 2\n", "line 3"),
        ("a: [1\n", "not readable"),
        ("a: !!python/object:os.system x\n", "line 1"),
        ("%YAML 1.1\n---\nstudy: x\n", "YAML 1.2"),
        ("1: 2\n", "must be a name"),
        ("a: &x [1]\nb: *x\n", "alias"),
        ("a: &x {b: *x}\n", "alias"),
        ("a: " + "[" * 50 + "]" * 50, "deep"),
        ("study: x\n---\nstudy: y\n", "line 2"),
    ],
)
def test_a_file_that_is_no_study(text: str, part: str, write_study: Callable[[str], Path]) -> None:
    write_study(text)
    assert part in refusal()


def test_a_file_that_cannot_be_read(workdir: Path) -> None:
    assert "nearest: study.yaml" in refusal(path=Path("studi.yaml"))
    assert "directory" in refusal(path=Path("models")).lower()
    (workdir / "latin.yaml").write_bytes(b"study: caf\xe9\n")
    assert "UTF-8" in refusal(path=Path("latin.yaml"))


def test_a_broken_model_folder_is_refused(workdir: Path) -> None:
    config = workdir / "models" / "alpha" / "config.json"
    config.write_text("{")
    assert "models.0.path" in refusal()
    config.write_text('{"model_type": "gpt2"}')
    assert "nearest" in refusal() or "llama" in refusal()


def test_a_given_file_of_questions_sets_the_size(workdir: Path) -> None:
    lines = [
        json.dumps({"id": index, "problem": f"What is {index} + 1?", "answer": str(index + 1)}) for index in range(4)
    ]
    (workdir / "aime.jsonl").write_text("\n".join(lines) + "\n")
    study = load_study(YAML, ["benchmarks=[{name: aime, file: aime.jsonl, num_problems: 4}]"])
    assert study.benchmarks[0].file == workdir / "aime.jsonl"
    assert "at most 4" in refusal("benchmarks=[{name: aime, file: aime.jsonl, num_problems: 5}]")


def test_calibration_text_is_read_before_anything_starts(workdir: Path) -> None:
    (workdir / "empty.txt").write_text(" ")
    assert "calibration.file" in refusal("calibration.file=empty.txt")
    (workdir / "traces.jsonl").write_text('{"text": "one"}\n{"txt": "two"}\n')
    assert "line 2" in refusal("calibration.file=traces.jsonl")
    (workdir / "traces.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert "calibration.num_samples is 128, must be at most 2" in refusal("calibration.file=traces.jsonl")
    study = load_study(YAML, ["calibration={file: traces.jsonl, num_samples: 2}"])
    assert study.calibration.file == workdir / "traces.jsonl"


@pytest.fixture
def installed_vllm(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A vLLM whose import fails: its arguments must come from the source text."""
    engine = workdir / "site" / "vllm" / "engine"
    engine.mkdir(parents=True)
    (engine.parent / "__init__.py").write_text("raise ImportError('vllm was imported')\n")
    (engine / "arg_utils.py").write_text(
        "class EngineArgs:\n    max_model_len: int | None = None\n    enforce_eager: bool = False\n"
        "    dtype: ModelDType = 'auto'\n"
        "    _private: int = 0\n\nclass AsyncEngineArgs(EngineArgs):\n    enable_log_requests: bool = False\n"
    )
    (engine.parent / "config").mkdir()
    (engine.parent / "config" / "model.py").write_text("ModelDType = Literal[\n    'float16', 'bfloat16'\n]\n")
    monkeypatch.syspath_prepend(str(workdir / "site"))
    for cached in (engine_args.engine_arguments, engine_args.argument_values):
        cached.cache_clear()
    yield
    for cached in (engine_args.engine_arguments, engine_args.argument_values):
        cached.cache_clear()


@pytest.mark.usefixtures("installed_vllm")
def test_engine_arguments_come_from_the_source_of_the_installed_package() -> None:
    load_study(YAML, ["engine.engine_kwargs.enable_log_requests=true"])
    assert "nearest: max_model_len" in refusal("engine.engine_kwargs.max_modell_len=4")
    assert "engine.engine_kwargs._private" in refusal("engine.engine_kwargs._private=4")
    assert "nearest: bfloat16" in refusal("engine.engine_kwargs.dtype=bflot16")
    assert load_study(YAML, ["engine.engine_kwargs.dtype=float16"]).engine.engine_kwargs["dtype"] == "float16"
    assert "type bool" in refusal("engine.engine_kwargs.enforce_eager=1")
    assert "type int | None" in refusal("engine.engine_kwargs.max_model_len=1k")


def test_without_vllm_names_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    engine_args.engine_arguments.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert load_study(YAML, ["engine.engine_kwargs.anything=1"]).engine.engine_kwargs["anything"] == 1
    engine_args.engine_arguments.cache_clear()


def test_parallel_sizes_use_the_engine_s_gpus() -> None:
    gpus = ["slots.num_gpus=2", "engine.num_gpus=2"]
    assert "engine.num_gpus is 2, must be 1" in refusal(*gpus)
    study = load_study(YAML, [*gpus, "engine.engine_kwargs.tensor_parallel_size=2"])
    assert study.platform == "cuda"


def test_the_context_of_a_model_bounds_the_answer() -> None:
    assert "below 1024" in refusal("sampling.max_tokens=1024", "engine.engine_kwargs={}")


def test_the_shipped_studies_load() -> None:
    root = Path(__file__).resolve().parents[2]
    grid = load_study(root / "conf" / "grid.yaml")
    assert {benchmark.name for benchmark in grid.benchmarks} == {"aime", "folio", "temporal_sequences", "musique"}
    assert (grid.sampling.max_tokens, grid.sampling.temperature, grid.sampling.top_p) == (32768, 0.6, 0.95)
    models = "models=[{path: models/alpha}, {path: models/beta}]"
    quickstart = load_study(root / "conf" / "quickstart.yaml", [models])
    assert {benchmark.name for benchmark in quickstart.benchmarks} == {"temporal", "logic", "arithmetic", "recall"}
    assert (quickstart.slots.count, quickstart.slots.num_gpus, quickstart.platform) == (2, 0, "cpu")

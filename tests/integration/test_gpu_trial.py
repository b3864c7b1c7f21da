"""On a real GPU: compress actor, then Serve and vLLM on CUDA, then scores. Needs no MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from sweep.config import StudyConfig
    from sweep.results import TrialResult

MODEL = Path(__file__).parents[2] / "models/pocket-llama-7m"
POOL = "sweep-gpu"
KWARGS = {"max_model_len": 1024, "enforce_eager": True, "gpu_memory_utilization": 0.3, "dtype": "bfloat16"}
ENGINE: dict[str, Any] = {"num_gpus": 1, "engine_kwargs": KWARGS, "start_timeout_s": 500}
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.engine,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def engine_host() -> Iterator[str | None]:
    """Of a local cluster with one slot, whose engine is ended at the end."""
    import ray

    from sweep.cluster import start_cluster
    from sweep.leases import start_pool
    from sweep.serving import end_application

    with start_cluster(None, 1) as cluster:
        pool = start_pool(POOL, 1)
        yield cluster.engine_host
        for app_name in ray.get(pool.engines.remote()):
            end_application(app_name)


def make_study(store: Path, space: list[dict[str, Any]], form: str, **keys: Any) -> StudyConfig:
    from sweep.config import StudyConfig

    return StudyConfig.model_validate(
        {
            "study": "gpu",
            "models": [{"path": str(MODEL)}],
            "space": space,
            "format": form,
            "benchmarks": ["temporal", "logic", "arithmetic", "recall"],
            "sampling": {"max_tokens": 256},
            "calibration": {"source": "tasks"},
            "slots": {"num_gpus": 1},
            "compress": {"num_gpus": 1},
            "engine": ENGINE,
            "concurrency": 256,
            "store": str(store),
            **keys,
        }
    )


def run_grid(
    study: StudyConfig, folder: Path, engine_host: str | None, *, with_baseline: bool = True, only: int | None = None
) -> list[TrialResult]:
    """The trials of a study, one after the other, as its driver would; only: those of so many bits."""
    from sweep.space import baselines, grid
    from sweep.store import StudyFolder
    from sweep.trial import StudyContext, run_trial

    context = StudyContext(study, StudyFolder(folder), POOL, engine_host, grid(study), launch="gpu")
    wanted = [trial for trial in grid(study) if only is None or (trial.scheme and trial.scheme.num_bits == only)]
    trials = (*(baselines(study) if with_baseline else ()), *wanted)
    try:
        return [run_trial(trial, context) for trial in trials]
    except Exception:
        for log in sorted(StudyFolder(folder).logs.glob("*.log")):
            print(f"--- {log}", *log.read_text(errors="replace").splitlines()[-60:], sep="\n")
        raise


def test_trials_run_on_the_gpu_from_weights_to_scores(tmp_path: Path, engine_host: str | None) -> None:
    from sweep.objectives import make_table

    space = [{"method": "gptq", "num_bits": 3, "group_size": 64}, {"method": "rtn", "num_bits": 2}]
    study = make_study(tmp_path / "store", space, "dequantized", num_problems=100)
    results = run_grid(study, tmp_path / "study", engine_host)
    base, *compressed = make_table(study, results).rows
    scores = {row.trial.name: row.accuracy for row in compressed}
    print({base.trial.name: base.accuracy, **scores}, base.tokens_per_s)
    assert base.accuracy is not None and base.accuracy > 0.9
    assert scores[f"{MODEL.name}/gptq-w3-g64-sym"] > base.accuracy - 0.15
    assert scores[f"{MODEL.name}/rtn-w2-channel-sym"] < 0.5


WIDTHS = [4, 8, 3, 2]
SPACE: list[dict[str, Any]] = [{"method": "gptq", "num_bits": WIDTHS, "group_size": 64}]


@pytest.fixture(scope="module")
def dequantized(tmp_path_factory: pytest.TempPathFactory, engine_host: str | None) -> dict[int | None, TrialResult]:
    """One pass and one engine for all widths."""
    folder = tmp_path_factory.mktemp("dequantized")
    study = make_study(folder / "store", SPACE, "dequantized", num_problems=150)
    results = run_grid(study, folder, engine_host, with_baseline=False)
    return {result.config.scheme.num_bits: result for result in results if result.config.scheme}


@pytest.fixture(scope="module")
def packed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed")


@pytest.mark.parametrize("num_bits", WIDTHS)
def test_packed_weights_score_like_their_dequantized_twin(
    num_bits: int, dequantized: dict[int | None, TrialResult], packed_folder: Path, engine_host: str | None
) -> None:
    """Machete or Marlin reads 4 and 8 bits, Humming 2 and 3. Each layout is an engine of its own."""
    from sweep.objectives import compare

    study = make_study(packed_folder / "store", SPACE, "packed", num_problems=150)
    (packed,) = run_grid(study, packed_folder, engine_host, with_baseline=False, only=num_bits)
    twin = dequantized[num_bits]
    assert (twin.checkpoint.format, packed.checkpoint.format) == ("dequantized", "packed")
    found = compare(packed.answers, twin.answers)
    print(f"{num_bits} bits, packed minus dequantized: {found}")
    print(
        [(t.checkpoint.effective_bits, t.checkpoint.served_gb, t.evaluations[0].tokens_per_s) for t in (twin, packed)]
    )
    assert found is not None and found.low <= 0 <= found.high, found
    assert found.high - found.low < 0.12, found

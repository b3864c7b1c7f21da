"""On a real GPU: compress actor, then Serve and vLLM on CUDA, then scores. Needs no MLflow."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

MODEL = Path(__file__).parents[2] / "models/pocket-llama-7m"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.engine,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_trials_run_on_the_gpu_from_weights_to_scores(tmp_path: Path) -> None:
    import ray

    from sweep.cluster import start_cluster
    from sweep.config import StudyConfig
    from sweep.leases import start_pool
    from sweep.objectives import make_table
    from sweep.space import baselines, grid
    from sweep.store import StudyFolder
    from sweep.trial import StudyContext, run_trial

    engine_kwargs = {"max_model_len": 1024, "enforce_eager": True, "gpu_memory_utilization": 0.3, "dtype": "bfloat16"}
    study = StudyConfig.model_validate(
        {
            "study": "gpu",
            "models": [{"path": str(MODEL)}],
            "space": [{"method": "gptq", "num_bits": 3, "group_size": 64}, {"method": "rtn", "num_bits": 2}],
            "benchmarks": ["temporal", "logic", "arithmetic", "recall"],
            "num_problems": 100,
            "sampling": {"max_tokens": 256},
            "calibration": {"source": "tasks"},
            "slots": {"num_gpus": 1},
            "compress": {"num_gpus": 1},
            "engine": {"num_gpus": 1, "engine_kwargs": engine_kwargs},
            "concurrency": 256,
            "store": str(tmp_path / "store"),
        }
    )
    with start_cluster(None, 1) as cluster:
        pool = start_pool("sweep-gpu", 1)
        folder = StudyFolder(tmp_path / "study")
        context = StudyContext(study, folder, "sweep-gpu", cluster.base_url, grid(study), launch="gpu")
        results = [run_trial(trial, context) for trial in (*baselines(study), *grid(study))]
        assert ray.get(pool.engines.remote()) == ["sweep-gpu-0"]  # one engine served them all
    base, *compressed = make_table(study, results).rows
    scores = {row.trial.name: row.accuracy for row in compressed}
    print({base.trial.name: base.accuracy, **scores}, base.tokens_per_s)
    assert base.accuracy is not None and base.accuracy > 0.9
    assert scores[f"{MODEL.name}/gptq-w3-g64-sym"] > base.accuracy - 0.15
    assert scores[f"{MODEL.name}/rtn-w2-channel-sym"] < 0.5

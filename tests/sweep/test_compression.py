"""Checkpoints of a study: what they are made of, and the actor that makes them and is gone."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from compress.errors import InputError
from compress.report import load_report
from compress.scheme import CheckpointFormat, Method, Scheme
from evaluate.benchmarks import load_benchmark
from sweep.compression import (
    CompressActor,
    CompressJob,
    calibration_of,
    compress_ahead,
    compress_jobs,
    fetch_model,
    find_model,
    fits_beside_engine,
    make_checkpoint,
)
from sweep.config import ModelConfig, StudyConfig
from sweep.errors import CompressionFailed
from sweep.leases import Slot, find_pool, lease, start_pool
from sweep.results import load_checkpoint
from sweep.space import grid
from sweep.store import is_whole, locked
from tests.sweep.studies import find, make_study, save_weights

CALIBRATED = [
    {"method": "rtn", "num_bits": [8, 4], "group_size": 64},
    {"method": "sparsegpt", "sparsity": [0.5, "2:4"]},
]
SMALL = {"source": "tasks", "num_samples": 4, "max_seq_length": 64}


def jobs_of(study: StudyConfig, name: str = "alpha/rtn-w8-g64-sym") -> list[CompressJob]:
    trial = find(study, name)
    return compress_jobs(study, trial, grid(study), fetch_model(trial.model))


@pytest.fixture
def weights(workdir: Path) -> Path:
    for name in ("alpha", "beta"):
        save_weights(workdir / "models" / name)
    return workdir


@pytest.mark.usefixtures("weights")
def test_a_trials_own_checkpoint_comes_first_then_those_of_its_model() -> None:
    study = make_study(space=CALIBRATED)
    own, *others = jobs_of(study, "alpha/sparsegpt-s0.5")
    assert own.scheme.name == "sparsegpt-s0.5"
    assert len(others) == 4  # of alpha, its own among them; beta's are made from beta
    assert {job.model.name for job in [own, *others]} == {"alpha"}
    assert {job.out for job in others} >= {job.out for job in jobs_of(study)} - {own.out}
    assert len({job.out for job in [own, *others]}) == 4
    assert len({job.lock for job in [own, *others]}) == 4
    assert all(job.out.is_relative_to(study.store / "checkpoints") for job in others)


@pytest.mark.usefixtures("weights")
def test_the_format_is_the_studys() -> None:
    auto = {job.scheme.name: job.format for job in jobs_of(make_study(space=CALIBRATED))}
    assert auto == {
        "rtn-w8-g64-sym": "dequantized",
        "rtn-w4-g64-sym": "packed",
        "sparsegpt-s0.5": "dequantized",
        "sparsegpt-2:4": "dequantized",
    }
    plain = jobs_of(make_study(space=CALIBRATED, format="dequantized"))
    assert {job.format for job in plain} == {CheckpointFormat.DEQUANTIZED}


@pytest.mark.usefixtures("weights")
def test_only_what_reads_calibration_moves_with_it() -> None:
    def folders(**changes: Any) -> dict[str, Path]:
        study = make_study(space=CALIBRATED, **({"calibration": SMALL} | changes))
        return {job.scheme.name: job.out for job in jobs_of(study)}

    first = folders()
    for other in (folders(calibration=SMALL | {"num_samples": 5}), folders(seed=1)):
        moved = {name for name, folder in first.items() if other[name] != folder}
        assert moved == {"sparsegpt-s0.5", "sparsegpt-2:4"}
    assert folders(concurrency=1) == first


@pytest.mark.usefixtures("workdir")
def test_calibration_is_of_train_items_that_are_not_asked() -> None:
    study = make_study(calibration=SMALL | {"num_samples": 40})
    calibration = calibration_of(study)
    assert len(calibration.conversations) >= 40
    assert (calibration.num_samples, calibration.max_seq_length, calibration.seed) == (40, 64, 0)
    counted = calibration_of(make_study(calibration=SMALL | {"num_samples": 40, "first_token_weight": 8}))
    assert counted == replace(calibration, first_token_weight=8)
    asked = set()
    for benchmark in study.benchmarks:
        asked |= {problem.question for problem in load_benchmark(benchmark.name, num_problems=200).problems}
    questions = [question["content"] for question, _ in calibration.conversations]
    assert not asked & set(questions)
    assert all(reply["content"].startswith("<think>") for _, reply in calibration.conversations)
    assert calibration_of(make_study(calibration=SMALL | {"num_samples": 40}, seed=1)) != calibration


@pytest.mark.usefixtures("workdir")
def test_questions_among_the_calibration_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate.benchmarks.temporal as temporal

    generate = temporal.generate
    monkeypatch.setattr(temporal, "generate", lambda split, num_problems, seed: generate("test", num_problems, seed))
    study = make_study(benchmarks=[{"name": "temporal"}], calibration=SMALL | {"num_samples": 3, "max_seq_length": 77})
    with pytest.raises(CompressionFailed, match="calibration holds 3 questions of temporal"):
        calibration_of(study)


@pytest.mark.usefixtures("workdir")
def test_a_calibration_file_that_holds_questions_is_refused(workdir: Path) -> None:
    question = load_benchmark("logic", num_problems=1).problems[0].question
    (workdir / "text.txt").write_text("some text " * 20 + question.upper().replace(" ", "\n") + " more" * 50)
    study = make_study(benchmarks=["logic"], calibration={"file": "text.txt", "num_samples": 1, "max_seq_length": 16})
    with pytest.raises(CompressionFailed, match="calibration holds 1 questions of logic"):
        calibration_of(study)


@pytest.mark.usefixtures("weights")
def test_a_repair_is_named_by_its_traces_content_and_learns_no_question(workdir: Path) -> None:
    def jobs(name: str, *questions: str) -> list[CompressJob]:
        lines = [[{"role": "user", "content": q}, {"role": "assistant", "content": "(A)"}] for q in questions]
        (workdir / name).write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in lines))
        repair = {"traces": name, "num_steps": 2}
        study = make_study(space=[{"method": "magnitude", "sparsity": 0.5, "repair": [None, repair]}])
        return compress_jobs(study, grid(study)[0], grid(study)[1:2], study.models[0].path or workdir)

    first = jobs("a.jsonl", "who?", "where?")
    assert first[1].scheme.repair is not None and first[1].scheme.repair.traces == str(workdir / "a.jsonl")
    assert len({job.out for job in first}) == len(first)  # repaired and not
    assert [job.out for job in jobs("b.jsonl", "who?", "where?")] == [job.out for job in first]
    assert [job.out for job in jobs("b.jsonl", "who?", "when?")][1] != first[1].out
    asked = load_benchmark("temporal", num_problems=1).problems[0].question
    with pytest.raises(CompressionFailed, match=r"repair\.traces .*c\.jsonl holds 1 questions of temporal"):
        jobs("c.jsonl", "who?", asked)


@pytest.mark.usefixtures("weights")
def test_calibration_text_comes_from_its_file(workdir: Path) -> None:
    (workdir / "text.txt").write_text("some text " * 100)
    study = make_study(space=CALIBRATED, calibration={"file": "text.txt", "num_samples": 2, "max_seq_length": 16})
    calibrations = {job.scheme.name: job.calibration for job in jobs_of(study)}
    used = calibrations["sparsegpt-s0.5"]
    assert used is not None
    assert used.texts == ("some text " * 100,)
    assert calibrations["rtn-w8-g64-sym"] is None


@pytest.mark.usefixtures("weights")
def test_a_study_without_generated_tasks_needs_no_calibration_for_rtn(workdir: Path) -> None:
    question = {"input": "When?\nOptions:\n(A) 1am to 2am\n(B) 3am to 4am", "target": "(B)"}
    (workdir / "bbh.json").write_text(json.dumps({"examples": [question]}))
    study = make_study(benchmarks=[{"name": "temporal_sequences", "file": str(workdir / "bbh.json")}])
    assert len({job.out for job in jobs_of(study)}) == 5
    assert load_checkpoint(study, find(study, "alpha/rtn-w8-g64-sym")) is None


def test_the_actor_fits_beside_a_warm_engine_or_does_not(workdir: Path) -> None:
    def fits(slot: int, compress: int, engine: int) -> bool:
        return fits_beside_engine(
            make_study(slots={"num_gpus": slot}, compress={"num_gpus": compress}, engine={"num_gpus": engine})
        )

    assert fits(0, 0, 0)
    assert fits(1, 0, 1)
    assert fits(2, 1, 1)
    assert not fits(1, 1, 1)
    assert not fits(4, 1, 4)


@pytest.mark.usefixtures("weights")
def test_siblings_are_made_in_the_same_pass_and_one_that_cannot_be_is_left_to_its_own_trial(workdir: Path) -> None:
    study = make_study()
    own, four, two = (jobs_of(study, f"alpha/rtn-w{bits}-g64-sym")[0] for bits in (8, 4, 2))
    with locked(four.lock):  # somebody else makes this one
        CompressActor().compress([own, four, two])
    assert [is_whole(job.out) for job in (own, four, two)] == [True, False, True]
    report = load_report(two.out)
    assert report is not None
    assert report.num_schemes == 2
    three = replace(own, scheme=Scheme(Method.RTN, num_bits=3, group_size=64), out=workdir / "three")
    in_the_way = replace(own, scheme=Scheme(Method.RTN, num_bits=5, group_size=64), out=workdir / "models")
    CompressActor().compress([three, in_the_way])
    assert is_whole(three.out)
    with pytest.raises(InputError, match="models"):
        CompressActor().compress([in_the_way])


def snapshot(cache: Path) -> Path:
    """A Hub model in the local cache, laid out as huggingface_hub does."""
    folder = cache / "models--owner--small"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "snapshots" / "c0ffee").mkdir(parents=True)
    return folder / "snapshots" / "c0ffee"


def test_a_hub_model_is_found_in_the_cache_and_keeps_its_name(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(workdir / "no-cache"))
    study = make_study(models=[{"hub": "owner/small"}])
    with pytest.raises(CompressionFailed, match="owner/small could not be fetched from the Hub"):
        fetch_model(study.models[0])
    assert find_model(study.models[0]) is None
    folder = snapshot(workdir / "no-cache")
    (folder / "config.json").write_text((workdir / "models" / "alpha" / "config.json").read_text())
    assert find_model(study.models[0]) is None, "half a download is no model"
    save_weights(folder)
    assert find_model(study.models[0]) == fetch_model(study.models[0]) == folder
    out = jobs_of(study, "small/rtn-w8-g64-sym")[0].out
    assert out.name.startswith("small.rtn-w8-g64-sym.")


def test_a_local_model_is_its_folder(workdir: Path) -> None:
    model = ModelConfig(path=Path("models/alpha"))
    assert find_model(model) == fetch_model(model) == workdir / "models" / "alpha"


@pytest.fixture
def slot(local_ray: None) -> Iterator[Slot]:
    pool = start_pool("compressing", 1)
    with lease("compressing", "trial", "alpha") as slot:
        yield slot
    ray.kill(pool)


def gpu_study(**changes: Any) -> StudyConfig:
    """A slot of one GPU for the compress actor."""
    return make_study(space=CALIBRATED, calibration=SMALL, slots={"num_gpus": 1}, compress={"num_gpus": 1}, **changes)


def await_free_gpus() -> None:
    while ray.available_resources().get("GPU", 0) != 2:  # pytest's time-out ends this
        time.sleep(0.05)


@pytest.fixture
def reasoner(weights: Path) -> Path:
    """models/alpha with a tokenizer, which calibration needs."""
    from transformers import LlamaConfig

    from tests.compress.tiny_models import save_model

    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=128,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        num_hidden_layers=1,
        vocab_size=384,
        max_position_embeddings=512,
    )
    return save_model(weights / "models" / "alpha", config)


@pytest.mark.usefixtures("reasoner")
def test_the_actor_makes_the_checkpoint_and_its_siblings_and_is_gone(slot: Slot) -> None:
    study = gpu_study()
    name = "alpha/sparsegpt-s0.5"
    jobs = jobs_of(study, name)
    assert make_checkpoint(jobs, slot, study) == jobs[0].out
    assert ray.get(find_pool("compressing").progress.remote())["trial"].phase == "compressing 1/1 layers"
    await_free_gpus()
    assert [is_whole(job.out) for job in jobs] == [True] * len(jobs)
    checkpoint = load_checkpoint(study, find(study, name))
    report = load_report(jobs[0].out)
    assert checkpoint is not None
    assert report is not None
    assert checkpoint.fingerprint == report.weights_fingerprint
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert report.calibration is not None
    assert jobs[0].calibration is not None
    assert report.calibration["content_hash"] == jobs[0].calibration.content_hash
    assert sorted(path.name for path in (study.store / "checkpoints").iterdir() if path.name[0] != ".") == sorted(
        {job.out.name for job in jobs}
    )
    times = {path: path.stat().st_mtime_ns for path in jobs[0].out.iterdir()}
    assert make_checkpoint(jobs, slot, study) == jobs[0].out
    assert {path: path.stat().st_mtime_ns for path in jobs[0].out.iterdir()} == times


@pytest.mark.usefixtures("reasoner", "local_ray")
def test_checkpoints_made_ahead_are_waited_for_by_nobody_and_free_their_gpu() -> None:
    study = gpu_study()
    jobs = jobs_of(study)
    with locked(jobs[-1].lock):
        compress_ahead(jobs, study)
        while not is_whole(jobs[0].out):  # pytest's time-out ends these
            time.sleep(0.05)
        await_free_gpus()
        assert [is_whole(job.out) for job in jobs] == [True] * (len(jobs) - 1) + [False]


@pytest.mark.usefixtures("weights")
def test_a_model_that_cannot_be_compressed_fails_with_its_cause(slot: Slot, workdir: Path) -> None:
    path = workdir / "models" / "alpha" / "model.safetensors"
    jobs = jobs_of(gpu_study())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CompressionFailed, match=r"rtn-w8-g64-sym: .*model.safetensors.*torn"):
        make_checkpoint(jobs, slot, gpu_study())
    await_free_gpus()
    assert not any(is_whole(job.out) for job in jobs)
    assert list(jobs[0].out.parent.glob("*.tmp-*")) == []


@pytest.mark.usefixtures("weights")
def test_an_actor_that_is_killed_fails_its_trial_and_frees_its_gpu(slot: Slot) -> None:
    jobs = jobs_of(gpu_study())
    with locked(jobs[0].lock):  # the actor waits for whoever makes the checkpoint
        killer = threading.Thread(target=kill_compress_actor)
        killer.start()
        with pytest.raises(CompressionFailed, match="rtn-w8-g64-sym: the compress actor died"):
            make_checkpoint(jobs, slot, gpu_study())
        killer.join()
    await_free_gpus()
    assert not any(is_whole(job.out) for job in jobs)


def kill_compress_actor() -> None:
    """SIGKILL this session's compress actor once it is at work."""
    while True:
        for process in psutil.Process(os.getpid()).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # processes come and go while they are listed
                if "CompressActor.compress" in " ".join(process.cmdline()):
                    process.kill()
                    return
        time.sleep(0.05)

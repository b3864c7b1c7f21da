"""Engines in Ray Serve: what they answer, hot swaps against fresh engines, and what becomes of each fault.

One cluster and one slot serve all tests; an engine starts anew only where a test before has ended it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import ray
import torch
from ray import serve
from safetensors.torch import load_file, save_file

from compress.checkpoint import weights_fingerprint
from evaluate.benchmarks import Benchmark, load_benchmark
from evaluate.schema import Endpoint
from sweep.cluster import start_cluster
from sweep.config import StudyConfig, load_study
from sweep.errors import CanaryMismatch, EngineFailed
from sweep.leases import Slot, lease, start_pool
from sweep.replica import ServedCheckpoint
from sweep.results import answers_folder, load_benchmarks, load_checkpoint, load_result
from sweep.serving import EngineSettings, end_application, serve_checkpoint
from sweep.space import TrialConfig
from sweep.store import StudyFolder
from sweep.trial import StudyContext, run_trial
from tests.integration.conftest import STUDY

pytestmark = [pytest.mark.engine, pytest.mark.cluster, pytest.mark.timeout(1200)]

Tokens = tuple[tuple[str, float], ...]  # of one answer, with their log-probabilities
POOL = "sweep-serving-tests"
QUESTIONS = [
    problem.question for name in ("temporal", "recall") for problem in load_benchmark(name, num_problems=3).problems
]


@dataclass(frozen=True)
class Stage:
    """A cluster with one slot, and how its engines are started."""

    settings: EngineSettings
    study: StudyConfig

    def context(self, study: StudyConfig) -> StudyContext:
        """What run_trial wants."""
        folder = StudyFolder(self.settings.log_folder.parent)
        return StudyContext(study, folder, POOL, self.settings.host, siblings=(), launch="")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    (folder / "study.yaml").write_text(STUDY + f"store: {folder / 'store'}\n")
    study = load_study(folder / "study.yaml")
    with start_cluster(None, 1) as cluster:
        pool = start_pool(POOL, 1)
        context = StudyContext(study, StudyFolder(folder), POOL, cluster.engine_host, siblings=(), launch="")
        yield Stage(context.engine, study)
        for app_name in ray.get(pool.engines.remote()):
            end_application(app_name)


@pytest.fixture
def slot(stage: Stage) -> Iterator[Slot]:
    with lease(POOL, "test", "pocket") as leased:
        yield leased


@pytest.fixture(scope="module")
def swapped(stage: Stage, checkpoints: tuple[Path, ...]) -> dict[Path, tuple[Tokens, ...]]:
    """What each checkpoint says in one engine that swaps through all of them and back to the first."""
    said: dict[Path, tuple[Tokens, ...]] = {}
    pids = set()
    with lease(POOL, "swaps", "pocket") as leased:
        for folder in (*checkpoints, checkpoints[0]):
            with serve_checkpoint(served(folder), leased, stage.settings) as endpoint:
                found = greedy_tokens(endpoint)
                pids.add(replica_pid(leased.app_name))
            assert_same(found, said.setdefault(folder, found))  # the first one's tokens return with its weights
    assert len(pids) == 1
    return said


def served(folder: Path) -> ServedCheckpoint:
    fingerprint = weights_fingerprint(folder)
    return ServedCheckpoint(folder, f"{folder.name}@{fingerprint[:12]}", fingerprint)


def ask(endpoint: Endpoint, question: str, model: str | None = None) -> httpx.Response:
    """One greedy chat completion; `model` instead of the endpoint's own."""
    body = {
        "model": model or endpoint.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 200,
        "temperature": 0,
        "logprobs": True,
    }
    return httpx.post(f"{endpoint.url}/chat/completions", json=body, timeout=None, trust_env=False)


def greedy_tokens(endpoint: Endpoint) -> tuple[Tokens, ...]:
    """One question at a time, so that every engine computes the same batches."""
    replies = [ask(endpoint, question).raise_for_status().json() for question in QUESTIONS]
    return tuple(
        tuple((entry["token"], entry["logprob"]) for entry in reply["choices"][0]["logprobs"]["content"])
        for reply in replies
    )


def assert_same(found: Sequence[Tokens], expected: Sequence[Tokens]) -> None:
    """The same tokens, with the same log-probabilities but for rounding."""
    for answer, other in zip(found, expected, strict=True):
        assert [token for token, _ in answer] == [token for token, _ in other]
        assert [logprob for _, logprob in answer] == pytest.approx([logprob for _, logprob in other], abs=1e-3)


def replica_pid(app_name: str) -> int:
    pid: int = serve.get_app_handle(app_name).process_id.remote().result()
    return pid


def process_tree(pid: int) -> list[int]:
    """A process and all below it."""
    children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return [pid, *(below for child in children for below in process_tree(int(child)))]


def assert_nothing_runs(slot_name: str, pids: list[int], within_s: float = 60) -> None:
    """No application, and every process ended, or about to."""
    assert slot_name not in serve.status().applications
    deadline = time.monotonic() + within_s
    while living := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, living
        time.sleep(0.2)


def test_openai_routes(stage: Stage, slot: Slot, checkpoints: tuple[Path, ...]) -> None:
    with serve_checkpoint(served(checkpoints[0]), slot, stage.settings) as endpoint:
        reply = ask(endpoint, QUESTIONS[0]).raise_for_status().json()
        thinking, _, answer = reply["choices"][0]["message"]["content"].rpartition("</think>")
        assert thinking.startswith("<think>")
        assert "(" in answer
        usage = reply["usage"]
        assert usage["prompt_tokens"] > 50
        assert 10 < usage["completion_tokens"] <= 200
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

        models = httpx.get(f"{endpoint.url}/models", timeout=None, trust_env=False).json()
        assert [model["id"] for model in models["data"]] == [endpoint.model]
        other = ask(endpoint, QUESTIONS[0], model=served(checkpoints[1]).name)
        assert other.status_code == 404
        assert "choices" not in other.json()


def test_an_engine_swaps_through_checkpoints_that_differ(swapped: dict[Path, tuple[Tokens, ...]]) -> None:
    logprobs = [sum(logprob for answer in said for _, logprob in answer) for said in swapped.values()]
    assert min(abs(one - other) for one, other in itertools.combinations(logprobs, 2)) > 0.1


def test_corrupted_files_are_refused_and_a_fresh_engine_says_what_the_swap_said(
    stage: Stage, slot: Slot, checkpoints: tuple[Path, ...], swapped: dict[Path, tuple[Tokens, ...]], tmp_path: Path
) -> None:
    record = served(checkpoints[1])
    folder = Path(shutil.copytree(checkpoints[1], tmp_path / "corrupted"))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1000:-900] = bytes(byte ^ 0xFF for byte in content[-1000:-900])
    (folder / "model.safetensors").write_bytes(content)
    refuse(ServedCheckpoint(folder, record.name, record.fingerprint), "its files hash to", stage, slot)

    with serve_checkpoint(record, slot, stage.settings) as endpoint:
        assert_same(greedy_tokens(endpoint), swapped[checkpoints[1]])


def test_weights_that_are_no_numbers_are_refused_and_a_fresh_engine_says_what_the_swap_said(
    stage: Stage, slot: Slot, checkpoints: tuple[Path, ...], swapped: dict[Path, tuple[Tokens, ...]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoints[2], tmp_path / "not-finite"))
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.down_proj.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refuse(served(folder), "not finite", stage, slot)

    with serve_checkpoint(served(checkpoints[2]), slot, stage.settings) as endpoint:
        assert_same(greedy_tokens(endpoint), swapped[checkpoints[2]])


def refuse(checkpoint: ServedCheckpoint, cause: str, stage: Stage, slot: Slot) -> None:
    """Assert that the checkpoint is refused with its cause and that the slot is empty then."""
    serving = serve_checkpoint(checkpoint, slot, stage.settings)
    with pytest.raises(CanaryMismatch, match=cause) as refusal, serving:
        pytest.fail("it was served")
    assert str(checkpoint.folder) in str(refusal.value)
    assert slot.engine is None
    assert slot.app_name not in serve.status().applications


def test_a_killed_replica_fails_its_trial(stage: Stage) -> None:
    study = stage.study.model_copy(update={"num_problems": 300, "benchmarks": stage.study.benchmarks[:1]})
    base = TrialConfig(study.models[0], None)
    checkpoint = load_checkpoint(study, base)
    assert checkpoint is not None
    answers = answers_folder(study, checkpoint, study.seed) / "answers.jsonl"
    killed: list[int] = []

    def kill_while_it_answers() -> None:
        while not answers.exists() or answers.read_bytes().count(b"\n") < 20:
            time.sleep(0.1)
        pid = replica_pid(f"{POOL}-0")
        killed.extend(process_tree(pid))
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_while_it_answers, daemon=True)
    killer.start()
    with pytest.raises(EngineFailed, match=f"the engine died.*{stage.settings.log_folder}"):
        run_trial(base, stage.context(study))
    killer.join()
    assert load_result(study, base) is None
    assert_nothing_runs(f"{POOL}-0", killed)


def test_an_engine_that_dies_before_its_first_question_is_at_fault(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve still says that all is well when the client has given up."""

    def kill_first(study: StudyConfig) -> list[Benchmark]:
        os.kill(replica_pid(f"{POOL}-0"), signal.SIGKILL)
        return load_benchmarks(study)

    monkeypatch.setattr("sweep.trial.load_benchmarks", kill_first)
    study = stage.study.model_copy(update={"num_problems": 9})
    with pytest.raises(EngineFailed, match=f"the engine died: .*; log: {stage.settings.log_folder}"):
        run_trial(TrialConfig(study.models[0], None), stage.context(study))


def test_an_engine_ends_with_the_block_that_raises(stage: Stage, slot: Slot, checkpoints: tuple[Path, ...]) -> None:
    pids = []
    with pytest.raises(ZeroDivisionError), serve_checkpoint(served(checkpoints[0]), slot, stage.settings):
        pids = process_tree(replica_pid(slot.app_name))
        1 / 0  # noqa: B018
    assert slot.engine is None
    assert_nothing_runs(slot.app_name, pids)

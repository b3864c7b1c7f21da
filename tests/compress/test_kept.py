"""Kept Hessians: later passes read them, give the same bytes, and nothing is kept beyond the budget."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import compress.walk
from compress.calibration import Calibration
from compress.errors import NumericalError
from compress.job import HessianStore
from compress.methods import Propagate
from compress.pipeline import compress_model, compress_models
from compress.report import CompressionReport
from compress.scheme import Method, Scheme
from tests.compress.tiny_models import moe_config, save_model, sentences

TEXTS = Calibration(texts=tuple(sentences(12)), num_samples=12, max_seq_length=48)
FIRST, LATER = (Scheme(Method.GPTQ, bits, 32, propagate=Propagate.DENSE) for bits in (4, 2))
COMPRESSED = Scheme(Method.GPTQ, 3, 32)


@pytest.fixture
def store(tmp_path: Path) -> HessianStore:
    return HessianStore(tmp_path / "hessians", 10**9)


@pytest.fixture(params=["llama", "Qwen3Moe"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "llama":
        folder: Path = request.getfixturevalue("llama")
        return folder
    return save_model(tmp_path_factory.mktemp("moe") / "model", moe_config("Qwen3Moe"))


def made(model: Path, out: Path, *schemes: Scheme, **options: object) -> list[CompressionReport]:
    return compress_models(model, out, list(schemes), TEXTS, **options)


def must_not_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compress.walk, "measure_layer", lambda *_, **__: pytest.fail("it was measured again"))


def same_tensors(a: Path, b: Path) -> bool:
    return (a / "model.safetensors").read_bytes() == (b / "model.safetensors").read_bytes()


def test_a_later_pass_measures_nothing_and_gives_the_same_bytes(
    model: Path, store: HessianStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(model, tmp_path / "first", FIRST, hessians=store)
    (plain,) = made(model, tmp_path / "plain", LATER)
    must_not_measure(monkeypatch)
    (later,) = made(model, tmp_path / "later", LATER, hessians=store)
    assert same_tensors(tmp_path / "later" / LATER.name, tmp_path / "plain" / LATER.name)
    assert (later.layers, later.fallbacks) == (plain.layers, plain.fallbacks)
    assert (plain.activations, later.activations) == ("device", None)


def test_a_compressed_stream_beside_a_kept_one_goes_its_own_way(
    llama: Path, store: HessianStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(llama, tmp_path / "first", FIRST, hessians=store)
    made(llama, tmp_path / "plain", COMPRESSED)
    must_not_measure(monkeypatch)
    made(llama, tmp_path / "both", LATER, COMPRESSED, hessians=store)
    assert same_tensors(tmp_path / "both" / COMPRESSED.name, tmp_path / "plain" / COMPRESSED.name)


def test_other_calibration_is_measured_anew(llama: Path, store: HessianStore, tmp_path: Path) -> None:
    made(llama, tmp_path / "first", FIRST, hessians=store)
    other = Calibration(texts=TEXTS.texts[:6], num_samples=6, max_seq_length=48)
    compress_models(llama, tmp_path / "other", [LATER], other, hessians=store)
    assert len(list(store.folder.iterdir())) == 2
    compress_model(llama, tmp_path / "plain", LATER, other)
    assert same_tensors(tmp_path / "other" / LATER.name, tmp_path / "plain")


def test_another_weight_of_the_first_token_is_measured_anew(llama: Path, store: HessianStore, tmp_path: Path) -> None:
    made(llama, tmp_path / "first", FIRST, hessians=store)
    counted = replace(TEXTS, first_token_weight=64.0)
    compress_models(llama, tmp_path / "counted", [LATER], counted, hessians=store)
    compress_model(llama, tmp_path / "plain", LATER, counted)
    assert same_tensors(tmp_path / "counted" / LATER.name, tmp_path / "plain")
    made(llama, tmp_path / "uncounted", LATER, hessians=store)
    assert not same_tensors(tmp_path / "counted" / LATER.name, tmp_path / "uncounted" / LATER.name)


def test_nothing_is_kept_beyond_the_budget_or_of_compressed_streams(llama: Path, tmp_path: Path) -> None:
    small = HessianStore(tmp_path / "hessians", 10_000)
    made(llama, tmp_path / "first", FIRST, hessians=small)
    made(llama, tmp_path / "second", COMPRESSED, hessians=HessianStore(small.folder, 10**9))
    assert not small.folder.exists()


def test_a_pass_that_failed_keeps_nothing(
    llama: Path, store: HessianStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve = compress.walk.solve_requests

    def fail_late(weights: dict[str, torch.Tensor], *rest: object) -> object:
        if any(name.startswith("model.layers.1.") for name in weights):
            raise OSError("disk full")
        return solve(weights, *rest)

    monkeypatch.setattr(compress.walk, "solve_requests", fail_late)
    with pytest.raises((OSError, NumericalError), match="disk full"):
        made(llama, tmp_path / "first", FIRST, hessians=store)
    assert list(store.folder.iterdir()) == []

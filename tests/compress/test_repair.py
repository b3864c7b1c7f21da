"""`repair:` as a key of schemes: compressed, then trained, in one request."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compress.errors import FormatError, InputError, SchemeError
from compress.pipeline import compress_models
from compress.scheme import CheckpointFormat, Method, Scheme
from compress.servable import servable
from tests.compress.test_distill import ANSWERS, talk, weights_of, write


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    return write(tmp_path / "traces.jsonl", [talk(f"who went {n}", ANSWERS[n % len(ANSWERS)]) for n in range(20)])


def scheme_of(traces: Path, **settings: Any) -> Scheme:
    repair = {"traces": str(traces), "num_steps": 4, "learning_rate": 3e-3, "batch_size": 128, **settings}
    return Scheme.from_json({"method": "magnitude", "sparsity": "2:4", "repair": repair})


def test_a_repair_runs_behind_the_compression_once(llama: Path, traces: Path, tmp_path: Path) -> None:
    repaired = scheme_of(traces, kd_weight=0.5)
    plain = replace(repaired, repair=None)
    outs = [tmp_path / "plain", tmp_path / "repaired"]

    def make() -> Any:
        return compress_models(llama, outs, [plain, repaired], formats=CheckpointFormat.AUTO, device="cpu")

    reports = make()
    assert [report.method for report in reports] == ["magnitude", "distill"]
    found = reports[1].distillation
    assert found is not None and found.loss_after < found.loss_before
    assert (reports[1].scheme, found.teacher, found.num_steps) == (plain, str(llama), 4)
    before, after = (weights_of(out) for out in outs)
    for layer in reports[1].layers:
        weight = after[f"{layer.name}.weight"]
        assert ((before[f"{layer.name}.weight"] == 0) <= (weight == 0)).all() and (weight != 0).any()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "repaired", "traces.jsonl"]

    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert make() == reports and {path: path.stat().st_mtime_ns for path in times} == times
    other = scheme_of(traces, num_steps=5)
    with pytest.raises(InputError, match="of the same request"):
        compress_models(llama, [outs[1]], [other], device="cpu")
    with pytest.raises(InputError, match="of the same request"):
        compress_models(llama, [outs[1]], [plain], device="cpu")


def test_repairs_are_told_apart_by_content(traces: Path, tmp_path: Path) -> None:
    scheme = scheme_of(traces)
    assert Scheme.from_json(json.loads(json.dumps(scheme.to_json()))) == scheme
    moved = traces.rename(tmp_path / "moved.jsonl")
    assert Scheme.from_json(scheme.to_json()) == scheme_of(moved) == scheme  # a hash that is given needs no file
    names = {scheme.name, scheme_of(moved, seed=1).name, replace(scheme, repair=None).name}
    write(moved, [talk("who", "anna"), talk("where", "market")])
    assert len({*names, scheme_of(moved).name}) == 4
    assert "repair" not in replace(scheme, repair=None).to_json()


def test_traces_that_changed_since_are_not_learned(llama: Path, traces: Path, tmp_path: Path) -> None:
    scheme = scheme_of(traces)
    write(traces, [talk("who", "anna"), talk("where", "market")])
    with pytest.raises(InputError, match=r"repair\.traces is .*changed"):
        compress_models(llama, [tmp_path / "out"], [scheme], device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["traces.jsonl"]


def test_what_was_compressed_before_a_kill_is_not_compressed_again(llama: Path, traces: Path, tmp_path: Path) -> None:
    scheme, left = scheme_of(traces), tmp_path / ".out.unrepaired"
    compress_models(llama, [left], [replace(scheme, repair=None)], device="cpu")
    layers: list[int] = []
    (report,) = compress_models(
        llama, [tmp_path / "out"], [scheme], device="cpu", on_progress=lambda done, total: layers.append(done)
    )
    assert (layers, left.exists(), report.method) == ([], False, "distill")


def test_a_student_that_cannot_be_trained_leaves_nothing(llama: Path, traces: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_seq_length is 2, must be longer"):
        compress_models(llama, [tmp_path / "out"], [scheme_of(traces, max_seq_length=2)], device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["traces.jsonl"]


def test_impossible_repairs_name_the_key(llama: Path, traces: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=r"repair\.num_step is unknown.*nearest: num_steps"):
        scheme_of(traces, num_step=3)
    with pytest.raises(SchemeError, match=r"repair\.learning_rate is 2"):
        scheme_of(traces, learning_rate=2)
    with pytest.raises(SchemeError, match=r"repair\.traces is .*No such file"):
        scheme_of(tmp_path / "none.jsonl")
    with pytest.raises(SchemeError, match=r"repair is traces\.jsonl, must be a mapping with traces"):
        Scheme(method=Method.RTN, num_bits=4, repair="traces.jsonl")  # type: ignore[arg-type]
    rounded = Scheme(method=Method.RTN, num_bits=4, repair=scheme_of(traces).repair)
    assert servable(rounded, "cpu", {}) is CheckpointFormat.DEQUANTIZED
    with pytest.raises(FormatError, match="a repair trains 16-bit values"):
        compress_models(llama, [tmp_path / "out"], [rounded], formats=CheckpointFormat.PACKED, device="cpu")

"""Distillation on tiny models: what is learned, what is kept, what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.__main__ import main
from compress.checkpoint import weights_fingerprint
from compress.distill import distill_model
from compress.distillation import Distillation
from compress.errors import InputError, NumericalError, SchemeError
from compress.job import load_tokenizer
from compress.pipeline import compress_model
from compress.report import load_report
from compress.scheme import CheckpointFormat, Method, Scheme
from compress.traces import load_traces, trace_rows
from compress.training import divergence

ANSWERS = ("the red old market at noon", "blue and blue and went there twice", "carl saw anna")
QUICK = Distillation(num_steps=12, learning_rate=3e-3, batch_size=256, max_seq_length=128)
PRUNED = Scheme(method=Method.MAGNITUDE, sparsity=0.5, pattern=(2, 4))


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def talk(prompt: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], **more}


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    lines = [talk(f"what did anna see {n}", ANSWERS[n % len(ANSWERS)]) for n in range(30)]
    return write(tmp_path / "traces.jsonl", lines)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def compressed(model: Path, out: Path, scheme: Scheme) -> Path:
    compress_model(model, out, scheme, format=CheckpointFormat.DEQUANTIZED, device="cpu")
    return out


def test_the_loss_falls_on_held_out_traces_and_the_report_says_so(qwen3: Path, traces: Path, tmp_path: Path) -> None:
    report = distill_model(qwen3, tmp_path / "out", load_traces(traces), QUICK, device="cpu")
    found = report.distillation
    assert found is not None and (report.method, report.scheme) == ("distill", None)
    assert found.loss_after < 0.7 * found.loss_before
    assert (found.num_traces, found.num_held_out, found.num_left_out, found.num_steps) == (27, 3, 0, 12)
    assert found.num_tokens > found.num_answer_tokens > 0
    assert found.student_fingerprint == weights_fingerprint(qwen3)
    stored = json.loads((tmp_path / "out/compression_report.json").read_text())
    assert (stored["method"], stored["scheme"]) == ("distill", None)
    assert load_report(tmp_path / "out") == report
    assert weights_fingerprint(tmp_path / "out") == report.weights_fingerprint != found.student_fingerprint
    assert {t.dtype for t in weights_of(tmp_path / "out").values()} == {torch.bfloat16}
    again = distill_model(tmp_path / "out", tmp_path / "again", load_traces(traces), QUICK, device="cpu").distillation
    assert again is not None and again.loss_before == pytest.approx(found.loss_after, rel=1e-6)  # measured as stored


def test_prompts_do_not_count(llama: Path, tmp_path: Path) -> None:
    """A student cannot tell prompts that do not count: their loss stays out of the gradient and of the report."""
    tokenizer = load_tokenizer(llama)
    path = write(tmp_path / "t.jsonl", [talk("who went", "anna saw"), talk("who was", "bela", finish_reason="length")])
    rows = trace_rows(load_traces(path).items, tokenizer, 100)
    assert [tokenizer.decode(row.tokens[row.first :]) for row in rows] == ["anna saw</s>", "bela"]
    assert tokenizer.decode(rows[0].tokens[: rows[0].first]) == "<|user|>who went\n<|assistant|>"
    short = trace_rows(load_traces(path).items[:1], tokenizer, rows[0].first + 2)
    assert [row.num_counted for row in short] == [2] and rows[0].num_counted > 2
    assert trace_rows(load_traces(path).items[:1], tokenizer, rows[0].first) == []
    (text,) = trace_rows(load_traces(write(tmp_path / "u.jsonl", [{"text": "anna went"}])).items, tokenizer, 100)
    assert text.first == 1 and text.tokens[-1] == tokenizer.eos_token_id

    from compress.training import answer_loss

    model = load(llama)
    expected = 0.0
    for row in rows:
        losses = -model(torch.tensor([row.tokens[:-1]])).logits[0].log_softmax(-1)
        expected += sum(losses[at - 1, row.tokens[at]].item() for at in range(row.first, len(row.tokens)))
    assert answer_loss(model, rows).item() == pytest.approx(expected, rel=1e-5)


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_the_divergence_is_the_one_computed_by_hand() -> None:
    """Two tokens, three words, T = 2, against sums of p log(p / q); a padded vocabulary is cut."""
    student, teacher = [[0.0, 1.0, 2.0], [1.0, 1.0, -1.0]], [[2.0, 0.0, 0.0, 9.0], [1.0, 1.0, -1.0, 9.0]]
    expected = 0.0
    for q_row, p_row in zip(student, teacher, strict=True):
        q = [2.718281828459045 ** (x / 2) for x in q_row]
        p = [2.718281828459045 ** (x / 2) for x in p_row[:3]]
        q, p = [x / sum(q) for x in q], [x / sum(p) for x in p]
        expected += 4 * sum(b * torch.log(torch.tensor(b / a)).item() for a, b in zip(q, p, strict=True))
    assert divergence(torch.tensor(student), torch.tensor(teacher), 2.0).item() == pytest.approx(expected, rel=1e-5)


def test_a_teacher_counts_for_its_share(llama: Path, traces: Path, tmp_path: Path) -> None:
    """With weight 1 and a teacher that is the student nothing is to be learned; with another one something is."""
    alone = replace(QUICK, kd_weight=1.0, num_steps=2)
    distill_model(llama, tmp_path / "same", load_traces(traces), alone, teacher=llama, device="cpu")
    before, after = weights_of(llama), weights_of(tmp_path / "same")
    # The gradient is rounding noise there, which AdamW scales up to the learning rate at most.
    assert max((before[name] - after[name]).abs().max().item() for name in before) < 0.02
    teacher = tmp_path / "teacher"
    distill_model(llama, teacher, load_traces(traces), replace(QUICK, num_steps=40), device="cpu")
    settings = replace(QUICK, kd_weight=1.0, temperature=2.0)
    found = distill_model(
        llama, tmp_path / "out", load_traces(traces), settings, teacher=teacher, device="cpu"
    ).distillation
    assert found is not None and found.loss_after < 0.8 * found.loss_before
    assert found.teacher_fingerprint == weights_fingerprint(teacher)


def test_masks_are_kept(llama: Path, traces: Path, tmp_path: Path) -> None:
    student = compressed(llama, tmp_path / "pruned", PRUNED)
    report = distill_model(student, tmp_path / "out", load_traces(traces), QUICK, device="cpu")
    before, after = weights_of(student), weights_of(tmp_path / "out")
    moved = 0
    for layer in report.layers:
        weight, was = after[f"{layer.name}.weight"], before[f"{layer.name}.weight"]
        assert ((was == 0) <= (weight == 0)).all(), layer.name
        assert ((weight.reshape(-1, 4) != 0).sum(1) <= 2).all()
        moved += int((weight != was).sum())
    found = report.distillation
    assert found is not None and moved > found.num_masked * 0.8  # the other half was trained
    assert (report.scheme, report.sparsity, found.num_frozen) == (PRUNED, 0.5, 0)
    assert found.loss_after < found.loss_before


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(method=Method.RTN, num_bits=3, group_size=32, symmetric=False),
        Scheme(method=Method.RTN, num_bits="ternary", sparsity=0.5, overrides={"layers.0.mlp": {"skip": True}}),  # type: ignore[arg-type]
        Scheme(method=Method.MAGNITUDE, sparsity=0.5, overrides={"self_attn": {"num_bits": 4}}),  # type: ignore[arg-type]
    ],
    ids=lambda scheme: scheme.name,
)
def test_grids_are_kept(llama: Path, traces: Path, tmp_path: Path, scheme: Scheme) -> None:
    """Rounded weights stay to the bit, so on their grids; what a rule left alone is trained like norms and head."""
    student = compressed(llama, tmp_path / "rounded", scheme)
    report = distill_model(student, tmp_path / "out", load_traces(traces), QUICK, device="cpu")
    before, after = weights_of(student), weights_of(tmp_path / "out")
    same = {name for name in before if torch.equal(before[name], after[name])}
    rounded = {f"{layer.name}.weight" for layer in report.layers}
    if scheme.method is Method.MAGNITUDE:
        rounded = {name for name in rounded if "self_attn" in name}
    assert same == rounded and len(rounded) in (14, 11, 8)
    found = report.distillation
    assert found is not None and found.loss_after < found.loss_before
    assert found.num_frozen == sum(before[name].numel() for name in rounded)


def test_a_seed_gives_the_same_bytes_and_another_seed_others(llama: Path, traces: Path, tmp_path: Path) -> None:
    prints, quick = [], replace(QUICK, num_steps=2)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        report = distill_model(llama, tmp_path / name, load_traces(traces), replace(quick, seed=seed), device="cpu")
        prints.append(report.weights_fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_what_is_held_out_is_no_prompt_that_is_learned(tmp_path: Path) -> None:
    lines = [talk(f"prompt {n % 20}", f"answer {n}") for n in range(60)]
    found = load_traces(write(tmp_path / "t.jsonl", lines))
    learned, held_out = found.split(None, 0)
    assert not {trace.prompt for trace in learned} & {trace.prompt for trace in held_out}
    assert (len(learned), len(held_out)) == (54, 6)
    assert found.split(None, 0) == (learned, held_out) != found.split(None, 1)
    assert sum(map(len, found.split(30, 0))) == 30


def test_a_loss_that_is_not_finite_is_no_result(llama: Path, traces: Path, tmp_path: Path) -> None:
    """A token that only learned traces have is not a number, then one that all have."""
    found, tokenizer = load_traces(traces), load_tokenizer(llama)
    learned, held_out = (
        {token for row in trace_rows(part, tokenizer, 128) for token in row.tokens} for part in found.split(None, 0)
    )
    student = shutil.copytree(llama, tmp_path / "student")
    for token, said in (
        (min(learned - held_out), r"loss is nan and .* at step \d+ of 12: try a lower"),
        (max(held_out), "held-out"),
    ):
        weights = weights_of(llama)
        weights["model.embed_tokens.weight"][token] = float("nan")
        save_file(weights, student / "model.safetensors", {"format": "pt"})
        with pytest.raises(NumericalError, match=said):
            distill_model(student, tmp_path / "out", found, QUICK, device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student", "traces.jsonl"]


def test_the_command_line_repairs_and_inspects(
    llama: Path, traces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = compressed(llama, tmp_path / "pruned", PRUNED)
    options = ["--traces", str(traces), "--teacher", str(llama), "--num-steps", "3", "--batch-size", "256"]
    assert main(["distill", str(student), str(tmp_path / "out"), *options, "--device", "cpu", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert re.fullmatch(r"(step \d/3, loss [\d.]+\n){3}", captured.err)
    assert (report["method"], report["scheme"]["name"]) == ("distill", "magnitude-2:4")
    assert report["distillation"]["settings"]["kd_weight"] == 0.5
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["report"], found["unchanged"]) == (report, True)
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "nats a token (3 traces" in capsys.readouterr().out
    assert main(["distill", "--help"]) == 0
    assert "python -m compress distill PRUNED OUT" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("lines", "options", "said"),
    [
        (None, [], "--traces is .*No such file"),
        ([], [], "--traces is .*empty"),
        ([{"messages": [{"role": "user", "content": "a"}]}], [], "line 1 is with the user's message last"),
        ([talk("a", " ")], [], "line 1 is with no answer"),
        ([talk("a", "b"), {"prompt": "a"}], [], "line 2 is without usable text .prompt."),
        ([talk("a", "b"), talk("a", "c")], [], "--traces is .*1 prompt.*at least 2"),
        (3, ["--num-samples", "4"], "--num-samples is 4, must be at most the 3 traces of"),
        (3, ["--max-seq-length", "3"], "--max-seq-length is 3, must be longer: the prompts"),
        (3, ["--num-steps", "0"], "--num-steps is 0, must be a whole number from 1"),
        (3, ["--num-steps", "2", "--epochs", "2"], "--epochs is 2, must be left out beside num_steps"),
        (3, ["--learning-rate", "nan"], "--learning-rate is nan, must be a number above 0 to 1"),
        (3, ["--kd-weight", "0.5"], "--kd-weight is 0.5, must be left out .or 0. without a teacher"),
        (3, ["--teacher", "LLAMA", "--kd-weight", "0"], "--kd-weight is 0.0, must be above 0 beside a teacher"),
        (
            3,
            ["--teacher", "OTHER"],
            r"--teacher is .*of another vocabulary.*token '.+' is .+, must be one where it is \d+",
        ),
        (3, ["--teachr", "x"], "nearest: --teacher"),
        (3, ["--traces", "a.txt"], "--traces is a.txt, must be a .jsonl file"),
    ],
)
def test_bad_requests_are_refused_in_one_line(
    llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    lines: list[dict[str, Any]] | int | None,
    options: list[str],
    said: str,
) -> None:
    if isinstance(lines, int):
        lines = [talk(f"who went {n}", "anna") for n in range(lines)]
    if lines is not None:
        write(tmp_path / "t.jsonl", lines)
    if "OTHER" in options:
        other = shutil.copytree(llama, tmp_path / "other")
        tokenizer = json.loads((other / "tokenizer.json").read_text())
        vocabulary = tokenizer["model"]["vocab"]
        one, another = list(vocabulary)[-2:]
        vocabulary[one], vocabulary[another] = vocabulary[another], vocabulary[one]
        (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    names = {"LLAMA": str(llama), "OTHER": str(tmp_path / "other")}
    options = ["--traces", str(tmp_path / "t.jsonl"), *(names.get(option, option) for option in options)]
    assert main(["distill", str(llama), str(tmp_path / "out"), "--device", "cpu", *options]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.search(said, err), err
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_packed_and_changed_students_are_refused(llama: Path, traces: Path, tmp_path: Path) -> None:
    scheme = Scheme(method=Method.RTN, num_bits=4, group_size=32)
    compress_model(llama, tmp_path / "packed", scheme, format=CheckpointFormat.PACKED, device="cpu")
    with pytest.raises(InputError, match="packed codes cannot be trained; make it again with --format dequantized"):
        distill_model(tmp_path / "packed", tmp_path / "out", load_traces(traces), QUICK)
    student = compressed(llama, tmp_path / "pruned", PRUNED)
    with (student / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(InputError, match=r"weights changed.*compression_report.json"):
        distill_model(student, tmp_path / "out", load_traces(traces), QUICK)
    experts = {"model_type": "qwen3_moe", "num_experts": 2, "moe_intermediate_size": 32}
    config = {**json.loads((llama / "config.json").read_text()), **experts}
    (student / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"pruned .qwen3_moe., must be a model without experts"):
        distill_model(student, tmp_path / "out", load_traces(traces), QUICK)
    with pytest.raises(SchemeError, match="kd_weight is 2"):
        replace(QUICK, kd_weight=2)


def test_a_killed_run_leaves_no_checkpoint_and_the_next_one_clears_up(
    llama: Path, traces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "compress", "distill", str(llama), str(out), "--traces", str(traces)]
    running = subprocess.Popen(
        [*command, "--num-steps", "5000", "--batch-size", "64", "--device", "cpu"],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert running.stderr is not None
    assert running.stderr.readline().startswith(b"step 1/")  # it trains
    running.send_signal(signal.SIGKILL)
    running.communicate()
    (left,) = tmp_path.glob(".out.tmp-*")
    assert not out.exists() and left.is_dir()
    report = distill_model(llama, out, load_traces(traces), replace(QUICK, num_steps=1), device="cpu")
    assert not list(tmp_path.glob(".out.tmp-*")) and load_report(out) == report


def test_an_interrupt_leaves_nothing(llama: Path, traces: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill_model(llama, tmp_path / "out", load_traces(traces), QUICK, device="cpu", on_step=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["traces.jsonl"]

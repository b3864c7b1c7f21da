"""A model's own traces: which prompts are asked, what is kept of the answers, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from compress.calibration import load_calibration
from evaluate.benchmarks import load_benchmark
from sweep.__main__ import main
from tests.evaluate.conftest import server as server
from tests.evaluate.toy_server import MODEL, Reply, Server, completion


def trace(*arguments: str, server: Server) -> int:
    return main(["traces", MODEL, "traces.jsonl", "--endpoint", server.endpoint.url, "--max-tokens", "50", *arguments])


def read_traces() -> list[list[dict[str, str]]]:
    return [json.loads(line)["messages"] for line in Path("traces.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("workdir")
def test_each_line_is_a_train_prompt_with_the_models_own_reply(server: Server) -> None:
    server.answer = lambda body, n: completion(f"<think>\n{len(server.asked)}\n</think>\nThe answer is (A).")
    assert trace("--benchmark", "temporal", "--benchmark", "logic", "--num-samples", "8", server=server) == 0
    traces = read_traces()
    assert len(traces) == 8
    tests = [load_benchmark(name, num_problems=500) for name in ("temporal", "logic")]
    asked = {problem.question for test in tests for problem in test.problems}
    assert not asked & {question["content"] for question, _ in traces}
    assert {question["content"] for question, _ in traces} == {b["messages"][0]["content"] for b in server.asked}
    assert all(reply["content"].endswith("</think>\nThe answer is (A).") for _, reply in traces)
    assert all(body["max_tokens"] == 50 for body in server.asked)
    assert len(load_calibration(Path("traces.jsonl"), num_samples=8).conversations) == 8


@pytest.mark.usefixtures("workdir")
def test_a_second_run_asks_nothing_and_writes_the_same(server: Server) -> None:
    options = ("--benchmark", "temporal", "--num-samples", "5")
    assert trace(*options, server=server) == 0
    first, num_asked = Path("traces.jsonl").read_text(), len(server.asked)
    Path("traces.jsonl").unlink()
    assert trace(*options, server=server) == 0
    assert (Path("traces.jsonl").read_text(), len(server.asked)) == (first, num_asked)


@pytest.mark.usefixtures("workdir")
def test_thinking_that_the_server_split_off_is_put_back(server: Server) -> None:
    server.answer = lambda body, n: completion("(A)", reasoning_content="it was 7am")
    assert trace("--benchmark", "temporal", "--num-samples", "1", server=server) == 0
    assert read_traces()[0][1]["content"] == "<think>\nit was 7am\n</think>\n(A)"


@pytest.mark.usefixtures("workdir")
def test_correct_only_keeps_what_the_grader_takes_for_right(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    from evaluate.benchmarks.arithmetic import generate

    right = {item.problem.question: item.problem.reference for item in generate("train", 6, 0)}
    boxes = [f"\\boxed{{{answer}}}" if n % 2 else "no idea" for n, answer in enumerate(right.values())]
    replies = dict(zip(right, boxes, strict=True))
    server.answer = lambda body, n: completion(replies[body["messages"][0]["content"]])
    assert trace("--benchmark", "arithmetic", "--num-samples", "6", "--correct-only", "--json", server=server) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_traces"], report["num_correct"], report["num_left_out"]) == (3, 3, 3)
    assert all("boxed" in reply["content"] for _, reply in read_traces())


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["traces", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.usefixtures("workdir")
def test_refusals_name_what_is_wrong_and_write_nothing(capsys: pytest.CaptureFixture[str], server: Server) -> None:
    rows = [{"id": f"2024-I-{n}", "problem": f"What is {n}?", "answer": str(n)} for n in range(3)]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    same = ["--benchmark", "aime=train.jsonl", "--against", "aime=train.jsonl", "--endpoint", server.endpoint.url]
    before = sorted(Path().rglob("*"))
    assert "3 are among its questions: 'What is " in refusal(capsys, MODEL, "t.jsonl", *same)
    assert "aime=FILE" in refusal(capsys, MODEL, "t.jsonl", "--benchmark", "aime")
    assert "nearest is 'temporal'" in refusal(capsys, MODEL, "t.jsonl", "--benchmark", "temporl")
    assert "ends in .jsonl" in refusal(capsys, MODEL, "t.json", "--benchmark", "temporal")
    assert "a model's folder with config.json" in refusal(capsys, "nowhere", "t.jsonl", "--benchmark", "temporal")
    assert sorted(Path().rglob("*")) == before


@pytest.mark.usefixtures("workdir")
def test_a_server_that_fails_leaves_no_traces(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = lambda body, n: Reply({"error": "no"}, status=400)
    assert trace("--benchmark", "temporal", "--num-samples", "2", server=server) == 2
    assert "none kept" in capsys.readouterr().err
    assert not Path("traces.jsonl").exists()


def test_help_teaches(capsys: Any) -> None:
    assert main(["traces", "--help"]) == 0
    assert "--calibration traces.jsonl" in " ".join(capsys.readouterr().out.split())

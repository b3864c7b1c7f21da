import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluate.benchmarks import Benchmark, load_benchmark
from evaluate.client import RetryPolicy
from evaluate.errors import BadInput, EndpointUnavailable, ModelNotServed
from evaluate.rendering import Renderer
from evaluate.runner import RunSummary, run_benchmark, run_benchmarks
from evaluate.schema import Answer, Endpoint, Outcome, Prompting, Sampling
from evaluate.spec import answers_key, make_requests, make_spec
from evaluate.store import read_answers
from tests.drills.kill_evaluate import drill
from tests.evaluate.toy_server import MODEL, Reply, Server, completion

SAMPLING = Sampling(max_tokens=64)
REPOSITORY = Path(__file__).resolve().parents[2]


def benchmark_of(path: Path, num_problems: int = 12, answer: int = 1) -> Benchmark:
    """Problems "What is item 0?" ... whose answer is always the same integer."""
    rows = [{"id": f"p{i}", "problem": f"What is item {i}?", "answer": str(answer)} for i in range(num_problems)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_benchmark("aime", file=path)


def run(server: Server, output: Path, *benchmarks: Benchmark, **options: Any) -> RunSummary:
    options = {"retry": RetryPolicy(first_delay_s=0.001, max_delay_s=0.002), **options}
    sampling = options.pop("sampling", SAMPLING)
    return asyncio.run(run_benchmarks(server.endpoint, benchmarks, sampling, output, **options))


def item_of(body: dict[str, Any]) -> int:
    return int(body["messages"][0]["content"].split("item ")[1].split("?")[0])


def test_a_run_asks_grades_keeps_and_summarizes(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body, n: completion(
        f"<think>\nhm\n</think>\n\\boxed{{{item_of(body) % 2}}}", tokens=item_of(body)
    )
    benchmark = benchmark_of(tmp_path / "a.jsonl", 10)
    seen: list[Answer] = []
    summary = run(server, tmp_path / "out", benchmark, on_answer=seen.append)
    part = summary.benchmarks[0]
    assert part.accuracy == summary.accuracy == 0.5
    assert part.outcomes == {"correct": 5, "incorrect": 5, "no_answer": 0, "truncated": 0, "error": 0}
    assert (part.tokens_per_question.mean, part.tokens_per_question.median) == (4.5, 4.5)
    assert seen == read_answers(tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert {"benchmark", "problem_id", "sample", "completion", "finish_reason", "outcome", "answer", "rule"} <= set(
        lines[0]
    )
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == json.loads(json.dumps(summary.to_json()))


def test_prompt_holds_the_question_verbatim(server: Server, tmp_path: Path) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl", 1)
    run(server, tmp_path / "out", benchmark)
    assert server.asked[0]["messages"][0]["content"] == benchmark.problems[0].question


def test_each_request_has_its_own_lasting_seed(server: Server, tmp_path: Path) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl", 4)
    sampling = Sampling(max_tokens=64, num_completions=3)
    run(server, tmp_path / "one", benchmark, sampling=sampling)
    first = {(item_of(b), b["seed"]) for b in server.asked}
    assert len({seed for _, seed in first}) == 12
    server.asked.clear()
    run(server, tmp_path / "two", replace(benchmark, problems=benchmark.problems[:2]), sampling=sampling)
    assert {(item_of(b), b["seed"]) for b in server.asked} < first
    server.asked.clear()
    run(server, tmp_path / "three", benchmark, sampling=replace(sampling, seed=1))
    assert not {b["seed"] for b in server.asked} & {seed for _, seed in first}


def test_every_fault_ends_in_its_outcome_and_none_in_a_score(server: Server, tmp_path: Path) -> None:
    replies = {
        0: completion("\\boxed{1}", "length"),
        1: completion(None, "length"),
        2: completion(None),
        3: Reply({"error": "bad"}, status=400),
        4: Reply(fault="reset"),
        5: Reply(b"garbage"),
        6: completion("I was not able to finish."),
        7: completion("\\boxed{2}"),
        8: completion(None, reasoning="I give up"),
        9: completion("\\boxed{1}", "abort"),
        10: Reply({}, status=429),
        11: Reply(fault="stall"),
        12: Reply(completion("\\boxed{1}").body, fault="cut"),
        13: Reply({"error": "out of memory"}, status=500),
    }
    server.answer = lambda body, n: replies.get(item_of(body), completion("\\boxed{1}"))
    summary = run(server, tmp_path / "out", benchmark_of(tmp_path / "a.jsonl", 15), stall_timeout_s=0.2)
    outcomes = {int(a.problem_id[1:]): a.outcome for a in read_answers(tmp_path / "out")}
    truncated = [Outcome.TRUNCATED] * 2
    assert [outcomes[i] for i in range(15)] == [
        *truncated,
        *[Outcome.ERROR] * 4,
        Outcome.NO_ANSWER,
        Outcome.INCORRECT,
        Outcome.NO_ANSWER,
        *[Outcome.ERROR] * 5,
        Outcome.CORRECT,
    ]
    assert summary.num_errors == 9
    assert summary.benchmarks[0].accuracy == pytest.approx(1 / 6)


def test_resume_asks_only_what_is_missing_and_errors_again(server: Server, tmp_path: Path) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl")
    server.answer = lambda body, n: completion("\\boxed{1}") if item_of(body) else Reply({}, status=400)
    run(server, tmp_path / "out", benchmark)
    kept = [line for line in (tmp_path / "out" / "answers.jsonl").read_bytes().splitlines() if b'"error": null' in line]
    server.asked.clear()
    server.answer = lambda body, n: completion("\\boxed{1}")
    summary = run(server, tmp_path / "out", benchmark)
    assert [item_of(b) for b in server.asked] == [0]
    lines = (tmp_path / "out" / "answers.jsonl").read_bytes().splitlines()
    assert (lines[:11], len(lines), summary.num_errors) == (kept, 12, 0)


def test_empty_replies_count_as_no_answer_and_are_asked_again(server: Server, tmp_path: Path) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl", 4)
    replies = {0: completion(""), 1: completion(None, reasoning="hm"), 2: completion("", "length")}
    server.answer = lambda body, n: replies.get(item_of(body), completion("\\boxed{1}"))
    summary = run(server, tmp_path / "out", benchmark)
    assert summary.benchmarks[0].outcomes == {"correct": 1, "incorrect": 0, "no_answer": 2, "truncated": 1, "error": 0}
    server.asked.clear()
    replies[0] = completion("\\boxed{1}")
    assert run(server, tmp_path / "out", benchmark).benchmarks[0].outcomes["correct"] == 2
    assert [item_of(body) for body in server.asked] == [0]
    assert len(read_answers(tmp_path / "out")) == 4


@pytest.mark.parametrize("content", [None, "", "I give up."])
def test_thinking_that_the_server_split_off_is_graded_as_thinking(
    content: str | None, server: Server, tmp_path: Path
) -> None:
    server.answer = lambda body, n: completion(content, reasoning="so \\boxed{1}")
    run(server, tmp_path / "out", benchmark_of(tmp_path / "a.jsonl", 1))
    (answer,) = read_answers(tmp_path / "out")
    assert (answer.outcome, answer.lenient, answer.lenient_rule) == (Outcome.NO_ANSWER, Outcome.CORRECT, "thinking")
    assert (answer.completion, answer.reasoning) == (content, "so \\boxed{1}")


def test_answers_of_another_grader_are_not_taken(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl", 2)
    run(server, tmp_path / "out", benchmark)
    monkeypatch.setattr("evaluate.spec.GRADER_VERSION", "next")
    with pytest.raises(BadInput, match=r"this one grades by version next; run `python -m evaluate regrade"):
        run(server, tmp_path / "out", benchmark)
    assert len(server.asked) == 2


def test_finished_run_needs_no_server(server: Server, tmp_path: Path) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl")
    before = run(server, tmp_path / "out", benchmark)
    summary_bytes = (tmp_path / "out" / "summary.json").read_bytes()
    nowhere = Endpoint("http://127.0.0.1:9/v1", MODEL)
    assert asyncio.run(run_benchmarks(nowhere, [benchmark], SAMPLING, tmp_path / "out")) == before
    assert (tmp_path / "out" / "summary.json").read_bytes() == summary_bytes


def test_folder_may_be_widened_by_problems_and_benchmarks(server: Server, tmp_path: Path) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl")
    narrow = replace(benchmark, problems=benchmark.problems[:5])
    run(server, tmp_path / "out", narrow)
    summary = run(server, tmp_path / "out", benchmark, load_benchmark("logic", num_problems=3))
    assert len(server.asked) == 15
    assert [(b.name, b.num_problems) for b in summary.benchmarks] == [("aime", 12), ("logic", 3)]
    assert run(server, tmp_path / "out", narrow).benchmarks[0].num_problems == 5


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": Sampling(max_tokens=65)},
        {"sampling": Sampling(max_tokens=64, seed=1)},
        {"prompting": Prompting.COMPLETION},
        {"settings": {"weights": "other"}},
    ],
    ids=str,
)
def test_another_run_in_the_same_folder_is_refused(server: Server, tmp_path: Path, options: dict[str, Any]) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl", 2)
    run(server, tmp_path / "out", benchmark)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(BadInput, match="use another folder"):
        run(server, tmp_path / "out", benchmark, **options)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_changed_reference_or_question_is_refused(server: Server, tmp_path: Path) -> None:
    run(server, tmp_path / "out", benchmark_of(tmp_path / "a.jsonl", 2))
    with pytest.raises(BadInput, match="another question or reference"):
        run(server, tmp_path / "out", benchmark_of(tmp_path / "a.jsonl", 2, answer=5))


def test_bad_endpoint_leaves_nothing_behind(server: Server, tmp_path: Path) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl", 2)
    for endpoint, error in (
        (Endpoint(server.endpoint.url, "other"), ModelNotServed),
        (Endpoint("http://127.0.0.1:9/v1", MODEL), EndpointUnavailable),
    ):
        with pytest.raises(error):
            asyncio.run(run_benchmark(endpoint, benchmark, SAMPLING, tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_server_that_dies_stops_the_run_and_keeps_the_answers(server: Server, tmp_path: Path) -> None:
    def answer(body: dict[str, Any], n: int) -> Reply:
        if len(server.asked) == 5:
            server.socket.close()
        return Reply(completion("\\boxed{1}").body, headers={"Connection": "close"})

    server.answer = answer
    with pytest.raises(EndpointUnavailable, match="run again"):
        run(server, tmp_path / "out", benchmark_of(tmp_path / "a.jsonl"), concurrency=1)
    answers = read_answers(tmp_path / "out")
    assert [a.outcome for a in answers] == [Outcome.CORRECT] * len(answers)
    assert 4 <= len(answers) < 12


def test_all_benchmarks_share_one_bounded_pool(server: Server, tmp_path: Path) -> None:
    running = peak = 0

    def answer(body: dict[str, Any], n: int) -> Reply:
        nonlocal running, peak
        with server.lock:
            running += 1
            peak = max(peak, running)
        time.sleep(0.02)
        with server.lock:
            running -= 1
        return completion("True")

    server.answer = answer
    benchmarks = [load_benchmark(name, num_problems=12) for name in ("logic", "recall")]
    run(server, tmp_path / "out", *benchmarks, concurrency=5)
    assert peak == 5


def test_keys_and_seeds_depend_on_content_alone(tmp_path: Path) -> None:
    benchmark = benchmark_of(tmp_path / "a.jsonl", 3)

    def keys(sampling: Sampling, url: str = "http://a/v1", **settings: object) -> list[str]:
        spec = make_spec(Endpoint(url, MODEL), [benchmark], sampling, Prompting.CHAT, settings)
        return [r.key for r in make_requests([benchmark], sampling, spec)]

    base = keys(SAMPLING)
    assert len(set(base)) == 3
    assert keys(SAMPLING, url="http://b/v1") == base
    assert not set(keys(replace(SAMPLING, temperature=0.0))) & set(base)
    assert not set(keys(SAMPLING, weights="x")) & set(base)


def test_keys_of_stored_answers_stay_what_they_were(tmp_path: Path) -> None:
    """A change here makes every stored answer of every user be asked again."""
    benchmark = benchmark_of(tmp_path / "a.jsonl", 2)
    spec = make_spec(Endpoint("http://a/v1", MODEL), [benchmark], SAMPLING, Prompting.CHAT, {"weights": "w"})
    requests = list(make_requests([benchmark], SAMPLING, spec))
    assert [(r.problem.problem_id, r.key, r.seed) for r in requests] == [
        ("p0", "9023ef4f254b4e41", 1334946731),
        ("p1", "231e8c3f21990c7a", 460362385),
    ]


def test_a_folder_is_shared_by_runs_that_differ_in_extent_alone(tmp_path: Path) -> None:
    def key(benchmark: Benchmark, sampling: Sampling = SAMPLING, prompting: Prompting = Prompting.CHAT) -> str:
        return answers_key([benchmark], make_spec(Endpoint("", MODEL), [benchmark], sampling, prompting, {}))

    path = tmp_path / "a.jsonl"
    whole = benchmark_of(path)
    assert key(whole) == key(replace(whole, problems=whole.problems[:3]))
    others = [key(whole, replace(SAMPLING, seed=1)), key(whole, prompting=Prompting.PAPER)]
    others += [key(benchmark_of(path, answer=2)), key(load_benchmark("logic", num_problems=2))]
    assert len({key(whole), *others}) == 5
    assert key(load_benchmark("logic", num_problems=2)) == key(load_benchmark("logic", num_problems=5))
    assert key(benchmark_of(tmp_path / "elsewhere.jsonl")) == key(whole)


def test_paper_prompts_are_sent_raw_and_their_thought_needs_no_opening(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body, n: Reply({"choices": [{"text": "so 1</think>\\boxed{1}", "finish_reason": "stop"}]})
    summary = run(server, tmp_path / "out", benchmark_of(tmp_path / "a.jsonl", 1), prompting=Prompting.PAPER)
    assert [body["prompt"] for body in server.asked] == ["What is item 0?\n<think>\n"]
    assert server.paths == ["/v1/completions"]
    assert summary.accuracy == 1.0


def test_with_a_tokenizer_ids_are_sent_and_max_tokens_is_cut_to_the_room_left(server: Server, tmp_path: Path) -> None:
    server.models = Reply({"data": [{"id": MODEL, "max_model_len": 100}]})
    server.answer = lambda body, n: Reply(
        {"choices": [{"text": "<think>hm</think>\\boxed{1}", "finish_reason": "stop"}]}
    )
    benchmark = benchmark_of(tmp_path / "a.jsonl", 2)
    renderer = Renderer(REPOSITORY / "models" / "pocket-llama-1m")
    prompts = [renderer.render(Prompting.CHAT, problem.question) for problem in benchmark.problems]
    summary = run(server, tmp_path / "out", benchmark, renderer=renderer)
    room = 100 - len(prompts[0])
    assert 0 < room < SAMPLING.max_tokens
    assert {tuple(body["prompt"]): body["max_tokens"] for body in server.asked} == dict.fromkeys(prompts, room)
    assert set(server.paths) == {"/v1/completions"}
    for answer in read_answers(tmp_path / "out"):
        assert (answer.max_tokens, answer.prompt_tokens, answer.outcome) == (room, len(prompts[0]), Outcome.CORRECT)
        assert answer.think_tokens is not None and 0 < answer.think_tokens < (answer.completion_tokens or 0)
    assert summary.benchmarks[0].accuracy == 1.0
    with pytest.raises(BadInput, match="tokenizer"):
        run(server, tmp_path / "out", benchmark)
    run(server, tmp_path / "wide", benchmark, renderer=renderer, max_model_len=10**6)
    assert {a.max_tokens for a in read_answers(tmp_path / "wide")} == {SAMPLING.max_tokens}
    server.asked.clear()
    full = run(server, tmp_path / "full", benchmark, renderer=renderer, max_model_len=len(prompts[0]))
    assert full.num_errors == 2 and not server.asked
    assert "leave no room" in str(read_answers(tmp_path / "full")[0].error)


def test_without_a_tokenizer_what_needs_it_is_null(server: Server, tmp_path: Path) -> None:
    server.models = Reply({"data": [{"id": MODEL, "max_model_len": 100}]})
    server.answer = lambda body, n: Reply(
        {"choices": [{"message": {"content": "<think>hm</think>\\boxed{1}"}, "finish_reason": "stop"}]}
    )
    run(server, tmp_path / "out", benchmark_of(tmp_path / "a.jsonl", 1))
    (answer,) = read_answers(tmp_path / "out")
    assert (answer.completion_tokens, answer.think_tokens, answer.prompt_tokens) == (None, None, None)
    assert answer.max_tokens == SAMPLING.max_tokens


def test_kill_at_random_moments_loses_nothing_and_asks_nothing_twice(tmp_path: Path) -> None:
    """The drill of tests/drills in short; its server is a process of its own."""
    assert drill(tmp_path, num_problems=40, num_kills=3, seed=0) == []

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluate.__main__ import main
from evaluate.compare import compare_folders
from evaluate.errors import BadInput
from evaluate.paired import Verdict
from evaluate.schema import Answer, Outcome
from tests.evaluate.made_answers import SPEC, answers_of, write_folder
from tests.evaluate.toy_server import MODEL, Server, completion


def changed(path: str, value: object) -> dict[str, Any]:
    """The spec with the value at a dotted key replaced."""
    spec = json.loads(json.dumps(SPEC))
    *parents, last = path.split(".")
    place = spec
    for parent in parents:
        place = place[parent]
    place[last] = value
    return spec


def test_two_runs_against_a_server(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From run to table: the second model says True to everything."""
    for name, text in (("a", "<think>1</think>False"), ("b", "<think>1 and 2</think>True")):
        server.answer = lambda body, n, text=text: completion(text)
        more = ["--benchmark", "logic", "--num-problems", "30", "--output", str(tmp_path / name)]
        assert main(["run", "--endpoint", server.endpoint.url, "--model", MODEL, *more]) == 0
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    out, err = capsys.readouterr()
    row = next(line for line in out.splitlines() if line.startswith("logic"))
    assert " 30" in row and err == "" and "margin of 0.02" in out and "minimum detectable" in out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    logic = document["benchmarks"]["logic"]
    assert logic["difference"]["difference"] == pytest.approx(logic["b"]["accuracy"] - logic["a"]["accuracy"])
    assert (document["a"]["model"], document["margin"], document["notes"]) == (MODEL, 0.02, [])


def test_stories_are_kept_with_the_answers(server: Server, tmp_path: Path) -> None:
    """Three conclusions from the same premises, one from others: two independent questions."""
    server.answer = lambda body, n: completion("<think>1</think>True")
    rows = [{"premises": [f"premise {i // 3}"], "conclusion": f"c{i}", "label": "True"} for i in range(4)]
    file = tmp_path / "folio.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a", "b"):
        more = ["--benchmark", f"folio={file}", "--output", str(tmp_path / name)]
        assert main(["run", "--endpoint", server.endpoint.url, "--model", MODEL, *more]) == 0
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())["benchmarks"]["folio"]
    assert (summary["num_problems"], summary["num_clusters"]) == (4, 2)
    assert compare_folders(tmp_path / "a", tmp_path / "b").benchmarks[0].b.num_clusters == 2


def test_difference_is_b_minus_a_and_the_verdict_is_about_b(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", answers_of([1] * 18 + [0] * 2))
    b = write_folder(tmp_path / "b", [replace(x, completion_tokens=30) for x in answers_of([1] * 6 + [0] * 14)])
    row = compare_folders(a, b).benchmarks[0]
    assert (row.a.accuracy, row.b.accuracy, row.difference.difference) == pytest.approx((0.9, 0.3, -0.6))
    assert (row.difference.flips_to_wrong, row.verdict) == (12, Verdict.WORSE)
    assert row.tokens_ratio is not None and row.tokens_ratio.ratio == 3
    assert compare_folders(b, a).benchmarks[0].verdict is Verdict.BETTER


def test_every_benchmark_pays_for_the_others(tmp_path: Path) -> None:
    """Six flips of one sort: p = 1/32 alone, but one of three tests."""
    names = ("logic", "temporal", "arithmetic")
    spec = changed("benchmarks", dict.fromkeys(names, SPEC["benchmarks"]["logic"]))
    lost = {
        "logic": answers_of([0] * 6 + [1] * 14),
        "temporal": answers_of([1] * 20),
        "arithmetic": answers_of([1] * 20),
    }
    a = write_folder(tmp_path / "a", [replace(x, benchmark=n) for n in names for x in answers_of([1] * 20)], spec)
    b = write_folder(tmp_path / "b", [replace(x, benchmark=n) for n in names for x in lost[n]], spec)
    row = compare_folders(a, b).benchmarks[0]
    assert (row.difference.p_value, row.adjusted_p) == pytest.approx((2 / 64, 6 / 64))
    assert row.verdict is Verdict.UNDECIDED


def reasoning_folders(tmp_path: Path, names: tuple[str, ...]) -> tuple[Path, Path]:
    """A is right throughout, B misses 6 of 20 in the first, 1 of 10 in the second and 5 of 5 in the third benchmark."""
    spec = changed("benchmarks", dict.fromkeys(names, SPEC["benchmarks"]["logic"]))
    lost = dict(zip(names, ([0] * 6 + [1] * 14, [0] + [1] * 9, [0] * 5), strict=False))
    of_b = [replace(x, benchmark=n) for n in names for x in answers_of(lost[n])]
    of_a = [replace(x, outcome=Outcome.CORRECT) for x in of_b]
    return write_folder(tmp_path / "a", of_a, spec), write_folder(tmp_path / "b", of_b, spec)


def test_reasoning_is_the_mean_over_its_benchmarks_whatever_their_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Knowledge does not count; 7 lost of 7 flips, by weight 10/20 and 10/10: p from all 2^7 sign patterns."""
    a, b = reasoning_folders(tmp_path, ("logic", "temporal", "recall"))
    found = compare_folders(a, b)
    row = found.reasoning
    assert row is not None and row.benchmarks == ["logic", "temporal"]
    assert (row.accuracy_a, row.accuracy_b, row.difference.difference) == pytest.approx((1.0, 0.8, -0.2))
    assert row.difference.p_value == pytest.approx(2 / 2**7)
    parts = [c.difference for c in found.benchmarks[:2]]
    half = sum((p.high - p.low) ** 2 for p in parts) ** 0.5 / 2 / 2
    assert (row.difference.high - row.difference.low) / 2 == pytest.approx(half)
    assert row.verdict is Verdict.WORSE
    capsys.readouterr()
    assert main(["compare", str(a), str(b)]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("reasoning "))
    assert line.split()[1:5] == ["30", "1.000", "0.800", "-0.200"] and line.endswith("worse")
    assert main(["compare", str(a), str(b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reasoning"]["difference"]["num_problems"] == 30


def test_reasoning_is_outside_the_family_of_holm(tmp_path: Path) -> None:
    a, b = reasoning_folders(tmp_path, ("logic", "temporal"))
    rows = compare_folders(a, b).benchmarks
    assert [r.adjusted_p for r in rows] == pytest.approx([2 * 2 / 2**6, 1.0])


@pytest.mark.parametrize("names", [("logic",), ("logic", "recall")])
def test_one_reasoning_benchmark_has_no_mean(
    names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = reasoning_folders(tmp_path, names)
    assert compare_folders(a, b).to_json()["reasoning"] is None
    assert main(["compare", str(a), str(b)]) == 0
    assert not any(x.startswith("reasoning ") for x in capsys.readouterr().out.splitlines())


def test_settings_of_the_weights_alone_need_no_counterpart(tmp_path: Path) -> None:
    a = write_folder(tmp_path / "a", answers_of([1] * 20), changed("settings", {}))
    b = write_folder(tmp_path / "b", answers_of([1] * 20), changed("settings", {"weights": "w2"}))
    assert [note.split(" ")[0] for note in compare_folders(a, b).notes] == ["settings.weights"]


def test_what_may_differ_is_named(tmp_path: Path) -> None:
    spec = changed("model", "gptq")
    spec["settings"]["weights"], spec["sampling"]["seed"] = "w2", 1
    spec["benchmarks"]["logic"]["source"] = "elsewhere"
    a = write_folder(tmp_path / "a", answers_of([1] * 20))
    b = write_folder(tmp_path / "b", answers_of([1] * 19 + [None]), spec)
    found = compare_folders(a, b)
    assert [note.split(" ")[0] for note in found.notes[:3]] == ["model", "sampling.seed", "settings.weights"]
    assert "1 failed requests are left out" in found.notes[3]
    assert (found.benchmarks[0].difference.num_problems, found.benchmarks[0].a.num_problems) == (19, 19)


@pytest.mark.parametrize(
    ("key", "value", "allow"),
    [
        ("prompting", "paper", "prompting"),
        ("sampling.max_tokens", 200, "sampling.max_tokens"),
        ("sampling.temperature", 0.0, "sampling"),
        ("settings.engine_kwargs.dtype", "float32", "settings.engine_kwargs"),
        ("benchmarks.logic.fingerprint", "g", "benchmarks.logic.fingerprint"),
        ("tokenizer", "other", "tokenizer"),  # a key that is not known today
    ],
)
def test_specs_that_differ_are_refused_by_key(
    key: str, value: object, allow: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (
        write_folder(tmp_path / "a", answers_of([1] * 20)),
        write_folder(tmp_path / "b", answers_of([1] * 20), changed(key, value)),
    )
    assert main(["compare", str(a), str(b)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert f"{key} " in err and json.dumps(value) in err and str(a / "spec.json") in err and "--allow-different" in err
    assert main(["compare", str(a), str(b), "--allow-different", allow]) == 0
    assert f"note: allowed to differ: {key}" in capsys.readouterr().out


def longer(answer: Answer) -> Answer:
    return replace(answer, prompt_tokens=9)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("grader", lambda answers: [replace(a, grader="0") for a in answers]),
        ("max_tokens", lambda answers: [replace(a, max_tokens=50) for a in answers]),
        ("prompt_tokens", lambda answers: [*answers[:-1], longer(answers[-1])]),
        ("reasoning", lambda answers: [replace(a, completion="True", reasoning="abc") for a in answers]),
        ("problems", lambda answers: answers[:-1]),
        ("problems", lambda answers: [*answers, replace(answers[0], problem_id="new")]),
        ("samples", lambda answers: [*answers, replace(answers[0], sample=1)]),
    ],
)
def test_answers_that_differ_are_refused_by_key(
    key: str,
    change: Callable[[list[Answer]], list[Answer]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers = [replace(a, max_tokens=100) for a in answers_of([1] * 20)]
    a, b = write_folder(tmp_path / "a", answers), write_folder(tmp_path / "b", change(answers))
    assert main(["compare", str(a), str(b)]) == 2
    err = capsys.readouterr().err
    assert f"{key}: " in err and str(b / "answers.jsonl" if key != "samples" else "problem '0'") in err
    assert err.endswith(f"for each of: {key}\n")
    assert main(["compare", str(a), str(b), "--allow-different", key]) == 0


def test_all_differences_are_named_at_once(tmp_path: Path) -> None:
    spec = changed("sampling.top_p", 1.0)
    a, b = write_folder(tmp_path / "a", answers_of([1] * 20)), write_folder(tmp_path / "b", answers_of([1] * 18), spec)
    with pytest.raises(BadInput, match=r"sampling\.top_p 0\.95 .* 1\.0 .*problems: logic has 2 of 20"):
        compare_folders(a, b, allowed=["prompting"])


def test_what_is_no_folder_of_answers_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write_folder(tmp_path / "a", answers_of([1]))
    assert main(["compare", str(a), str(tmp_path / "no")]) == 2
    assert f"{tmp_path / 'no' / 'spec.json'}: no such file" in capsys.readouterr().err
    b = write_folder(tmp_path / "b", [])
    assert main(["compare", str(a), str(b)]) == 2
    assert "holds no answer" in capsys.readouterr().err
    (b / "spec.json").write_text("[]")
    assert main(["compare", str(a), str(b)]) == 2
    assert f"{b / 'spec.json'}: is no spec" in capsys.readouterr().err
    c = write_folder(tmp_path / "c", [replace(x, outcome=Outcome.ERROR) for x in answers_of([1])])
    assert main(["compare", str(a), str(c)]) == 2
    assert "no problem was answered in both" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["compare", "collapse", "cost", "regrade"])
@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("spec.json", b"[" * 100_000, "spec.json: is no spec"),
        ("spec.json", b'{"benchmarks": null}', "spec.json: is no spec"),
        ("spec.json", b"\xff\xfe", "spec.json: line 1: is no UTF-8 text"),
        ("answers.jsonl", b'{"benchmark": 3}\n', "answers.jsonl: line 1: key 'problem_id' is missing"),
        ("answers.jsonl", b"", "answers.jsonl: holds no answer"),
    ],
)
def test_spoiled_folders_are_refused_and_left_as_they_are(
    command: str, name: str, content: bytes, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (str(write_folder(tmp_path / side, answers_of([1, 0]))) for side in ("a", "b"))
    (tmp_path / "b" / name).write_bytes(content)
    before = {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}
    arguments = {"compare": [a, b], "collapse": [f"0={a}", f"1={b}"], "cost": [b, "--usd-per-gpu-hour", "2"]}
    assert main([command, *arguments.get(command, [b])]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and str(tmp_path / "b") in err and named in err
    assert {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()} == before

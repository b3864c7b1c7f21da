import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evaluate.errors import BadInput
from evaluate.schema import Answer, Outcome
from evaluate.store import AnswerStore, check_answers, check_spec, read_answers

SPEC: dict[str, Any] = {
    "model": "toy",
    "prompting": "chat",
    "sampling": {"temperature": 0.6, "seed": 0},
    "settings": {"weights": "abc"},
    "benchmarks": {"logic": {"grader": "1", "num_problems": 3}},
}
ANSWER = Answer(
    benchmark="logic",
    problem_id="1",
    sample=0,
    completion="täxt \u2028 \ud800",
    reasoning=None,
    finish_reason="stop",
    outcome=Outcome.CORRECT,
    answer="True",
    rule="cue",
    completion_tokens=5,
    think_tokens=None,
    prompt_tokens=9,
    error=None,
    seed=1,
    latency_s=0.5,
    key="k1",
)
FAILED = replace(ANSWER, problem_id="2", completion=None, outcome=Outcome.ERROR, error="HTTP 500")


def write(folder: Path, *answers: Answer, spec: dict[str, Any] = SPEC) -> bytes:
    with AnswerStore(folder, spec) as store:
        for answer in answers:
            store.append(answer)
    return (folder / "answers.jsonl").read_bytes()


def test_an_answer_comes_back_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, ANSWER, FAILED)
    assert read_answers(tmp_path) == read_answers(tmp_path / "answers.jsonl") == [ANSWER, FAILED]


def test_no_folder_holds_no_answer(tmp_path: Path) -> None:
    assert read_answers(tmp_path / "nothing") == []


def test_a_line_is_on_disk_once_appended(tmp_path: Path) -> None:
    with AnswerStore(tmp_path, SPEC) as store:
        store.append(ANSWER)
        assert read_answers(tmp_path) == [ANSWER]


def test_torn_last_line_is_cut_and_the_rest_keeps_its_bytes(tmp_path: Path) -> None:
    whole = write(tmp_path, ANSWER)
    path = tmp_path / "answers.jsonl"
    path.write_bytes(whole + whole[:40])
    assert read_answers(tmp_path) == [ANSWER]
    assert write(tmp_path) == whole


def test_whole_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    whole = write(tmp_path, ANSWER)
    (tmp_path / "answers.jsonl").write_bytes(whole.rstrip(b"\n"))
    other = replace(ANSWER, problem_id="3")
    write(tmp_path, other)
    assert read_answers(tmp_path) == [ANSWER, other]


def test_errors_and_empty_replies_are_dropped_before_they_are_asked_again(tmp_path: Path) -> None:
    empty = replace(ANSWER, problem_id="3", completion=" \n", outcome=Outcome.NO_ANSWER, answer=None, rule="empty")
    write(tmp_path, FAILED, empty, ANSWER)
    write(tmp_path)
    assert read_answers(tmp_path) == [ANSWER]


def test_a_line_that_is_no_answer_is_named(tmp_path: Path) -> None:
    whole = write(tmp_path, ANSWER)
    (tmp_path / "answers.jsonl").write_bytes(whole + b"{}\n" + whole)
    with pytest.raises(BadInput, match=r"answers\.jsonl: line 2"):
        read_answers(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "other"}, 'model "toy", not "other"'),
        ({"prompting": "completion"}, "prompting"),
        ({"sampling": {"temperature": 0.0, "seed": 0}}, "sampling.temperature 0.6, not 0.0"),
        ({"sampling": {"temperature": 0.6, "seed": 1}}, "sampling.seed 0, not 1"),
        ({"settings": {"weights": "xyz"}}, 'settings.weights "abc", not "xyz"'),
        ({"settings": {}}, "settings.weights"),
    ],
)
def test_another_spec_is_refused_with_the_difference(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    before = write(tmp_path, ANSWER)
    with pytest.raises(BadInput) as refusal:
        check_spec(tmp_path, {**SPEC, **change})
    assert named in str(refusal.value)
    with pytest.raises(BadInput):
        write(tmp_path, ANSWER, spec={**SPEC, **change})
    assert (tmp_path / "answers.jsonl").read_bytes() == before


def test_benchmarks_may_be_added_and_widened(tmp_path: Path) -> None:
    write(tmp_path, ANSWER)
    wider = {"logic": {"grader": "1", "num_problems": 9}, "recall": {"grader": "1", "num_problems": 1}}
    write(tmp_path, spec={**SPEC, "benchmarks": wider})
    assert json.loads((tmp_path / "spec.json").read_text())["benchmarks"] == wider


def test_answers_without_spec_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ANSWER)
    (tmp_path / "spec.json").unlink()
    with pytest.raises(BadInput, match=r"without its spec\.json"):
        check_spec(tmp_path, SPEC)


def test_answer_to_another_question_is_refused(tmp_path: Path) -> None:
    check_answers(tmp_path, [ANSWER], {("logic", "1", 0): "k1", ("logic", "2", 0): "k9"}, "1")
    with pytest.raises(BadInput, match="logic problem '1'"):
        check_answers(tmp_path, [ANSWER], {("logic", "1", 0): "k2"}, "1")


def test_answer_of_another_grader_is_refused_with_the_cure(tmp_path: Path) -> None:
    keys = {("logic", "1", 0): "k1", ("logic", "2", 0): ""}
    check_answers(tmp_path, [replace(ANSWER, grader="2"), FAILED], keys, "2")
    with pytest.raises(BadInput, match=r"graded by version 1.*version 2.*evaluate regrade"):
        check_answers(tmp_path, [ANSWER], {("logic", "1", 0): "k1"}, "2")
    check_answers(tmp_path, [ANSWER], {}, "2")


def test_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with AnswerStore(tmp_path, SPEC) as store:
        with pytest.raises(BadInput, match="another run"), AnswerStore(tmp_path, SPEC):
            pass
        store.append(ANSWER)
    assert read_answers(tmp_path) == [ANSWER]
    write(tmp_path)  # the lock is gone with its holder


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"problem_id": 3}, "line 2: key 'problem_id' is 3, must be str"),
        ({"sample": "x"}, "line 2: key 'sample' is \"x\", must be int"),
        ({"sample": True}, "line 2: key 'sample' is true, must be int"),
        ({"completion": ["a"]}, "line 2: key 'completion' is [\"a\"], must be str | None"),
        ({"completion_tokens": float("nan")}, "line 2: key 'completion_tokens' is NaN, must be int | None"),
        ({"outcome": "great"}, "line 2: key 'outcome' is \"great\", must be one of correct, "),
        ({"lenient": 3}, "line 2: key 'lenient' is 3, must be one of correct, "),
        ({}, "line 2: logic problem '1' sample 0 stands there twice, first on line 1; drop one of the two"),
        ("[" * 100_000, "line 2: is no answer"),
    ],
)
def test_lines_that_cannot_be_an_answer_are_named_with_their_key(
    line: dict[str, Any] | str, named: str, tmp_path: Path
) -> None:
    whole = write(tmp_path, ANSWER)
    spoiled = line if isinstance(line, str) else json.dumps({**json.loads(whole), **line})
    (tmp_path / "answers.jsonl").write_bytes(whole + spoiled.encode() + b"\n")
    with pytest.raises(BadInput) as refusal:
        read_answers(tmp_path)
    assert f"{tmp_path / 'answers.jsonl'}: {named}" in str(refusal.value)


def test_a_whole_number_of_seconds_is_a_number(tmp_path: Path) -> None:
    write(tmp_path, replace(ANSWER, latency_s=1, f1=1))
    assert read_answers(tmp_path)[0].latency_s == 1

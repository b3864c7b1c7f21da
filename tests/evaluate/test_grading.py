import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.benchmarks import grade_completion
from evaluate.grading import AnswerType, grade, invalid_reference
from evaluate.schema import Outcome
from evaluate.symbolic import map_in_pool

OPTIONS = "Options:\n(A) 6pm to 9pm\n(B) 7am to 11am"
REFERENCES = {
    "integer": "33",
    "number": "3.5",
    "expression": r"\frac{1}{2}",
    "option": "(A)",
    "label": "Uncertain",
    "span": "Apple Corps",
}
RIGHT = {
    "integer": r"\boxed{33}",
    "number": "#### 3.5",
    "expression": r"\boxed{\dfrac12}",
    "option": "(A)",
    "label": "Unknown.",
    "span": "apple corps",
}


@pytest.mark.parametrize("answer_type", AnswerType)
class TestFinishReason:
    def test_length_is_truncated_whatever_the_text(self, answer_type: AnswerType) -> None:
        for completion in (f"<think>1</think>{RIGHT[answer_type]}", None, ""):
            verdict = grade(answer_type, completion, "length", REFERENCES[answer_type], OPTIONS)
            assert (verdict.outcome, verdict.answer) == (Outcome.TRUNCATED, None)

    def test_no_completion_is_an_error(self, answer_type: AnswerType) -> None:
        for finish_reason in ("stop", None):
            assert grade(answer_type, None, finish_reason, REFERENCES[answer_type]).outcome is Outcome.ERROR

    def test_broken_off_is_an_error(self, answer_type: AnswerType) -> None:
        verdict = grade(answer_type, RIGHT[answer_type], "abort", REFERENCES[answer_type], OPTIONS)
        assert (verdict.outcome, verdict.rule) == (Outcome.ERROR, "finish_abort")

    def test_stop_without_any_tag_is_graded(self, answer_type: AnswerType) -> None:
        for finish_reason in ("stop", None):
            verdict = grade(answer_type, RIGHT[answer_type], finish_reason, REFERENCES[answer_type], OPTIONS)
            assert verdict.outcome is Outcome.CORRECT

    def test_nothing_after_the_thought_is_no_answer(self, answer_type: AnswerType) -> None:
        verdict = grade(answer_type, f"{RIGHT[answer_type]}</think>\n", "stop", REFERENCES[answer_type], OPTIONS)
        assert (verdict.outcome, verdict.rule) == (Outcome.NO_ANSWER, "empty")


def test_f1_is_given_for_short_texts_alone() -> None:
    assert grade(AnswerType.SPAN, "Apple", "stop", ("Apple Corps", "apple")).f1 == 1.0
    assert grade(AnswerType.SPAN, "Apple", "length", "Apple").f1 == 0.0
    assert grade(AnswerType.SPAN, None, "stop", "Apple").f1 is None
    assert grade(AnswerType.INTEGER, r"\boxed{1}", "stop", "1").f1 is None


def test_any_accepted_reference_will_do() -> None:
    assert grade(AnswerType.SPAN, "Physics", "stop", ("physic", "physics")).outcome is Outcome.CORRECT
    assert grade(AnswerType.INTEGER, r"\boxed{025}", "stop", ("24", "25")).outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    ("answer_type", "reference", "is_valid"),
    [
        ("integer", "025", True),
        ("integer", "x", False),
        ("integer", "2.5", False),
        ("option", "(B)", True),
        ("option", "(C)", False),
        ("label", "Unknown", True),
        ("label", "yes", False),
        ("span", "x", True),
        ("span", " ", False),
    ],
)
def test_references_that_no_answer_could_equal_are_told(answer_type: str, reference: str, is_valid: bool) -> None:
    assert (invalid_reference(AnswerType(answer_type), reference, OPTIONS) is None) is is_valid


@given(st.text(alphabet=r"\boxed{}()ABtrue answer is:*13.,$</think>" + "\n", max_size=80), st.sampled_from(AnswerType))
@settings(max_examples=400, deadline=None)
def test_any_text_gets_a_grade_and_an_answer_only_with_a_verdict(text: str, answer_type: AnswerType) -> None:
    verdict = grade(answer_type, text, "stop", REFERENCES[answer_type], OPTIONS)
    assert (verdict.answer is not None) == (verdict.outcome in (Outcome.CORRECT, Outcome.INCORRECT))
    assert verdict.rule


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_edge_cases(test_data: Path) -> None:
    wrong = []
    for case in read(test_data / "graded" / "edge_cases.jsonl"):
        name = {"aime24": "aime"}.get(case["task"], case["task"])
        verdict = grade_completion(name, case["response"], case["finish_reason"], case["gold"], case.get("options"))
        if (verdict.outcome is Outcome.CORRECT, verdict.answer) != (bool(case["correct"]), case["extracted"]):
            wrong.append((case["id"], verdict))
        if "f1" in case:
            assert verdict.f1 == pytest.approx(case["f1"])
    assert wrong == []


def test_linc_labels(test_data: Path) -> None:
    """All 13 disagreements were looked at: nine records contradict the "ANSWER:" line of their own text; the other
    four were not read by LINC's parser ("Uncertain due to ...", "Invalid premises", two texts without that line).
    """
    rows = read(test_data / "graded" / "linc_folio_cot.jsonl")
    answers = [grade_completion("folio", r["response"], "stop", r["gold"]).answer or "Error" for r in rows]
    num_equal = sum(a == r["extracted_recorded"] for a, r in zip(answers, rows, strict=True))
    assert num_equal >= 3627
    assert num_equal / len(rows) >= 0.99


def test_bbh_runs_are_reproduced(test_data: Path) -> None:
    correct: Counter[str] = Counter()
    for row in read(test_data / "graded" / "bbh_temporal_davinci.jsonl"):
        options = row["input_tail"].rpartition("Options:")[2].partition("\nA:")[0]
        verdict = grade_completion("temporal_sequences", row["response"], "stop", row["gold"], options)
        correct[row["model"]] += verdict.outcome is Outcome.CORRECT
    assert correct == {"code-davinci-002-cot": 242, "code-davinci-002-direct": 194}


def test_math_responses_are_graded_as_math_verify_does(test_data: Path) -> None:
    """The one disagreement is a right "10000" for "10{,}000", which its recorded verdict calls wrong."""
    rows = read(test_data / "graded" / "math_qwen_800.jsonl")
    verdicts = map_in_pool(lambda r: grade_completion("math_500", r["response"], "stop", r["gold"]), rows)
    pairs = zip(rows, verdicts, strict=True)
    odd = [(r["gold"], v.answer) for r, v in pairs if (v.outcome is Outcome.CORRECT) is not bool(r["score_recorded"])]
    assert odd == [("10{,}000", "10000")]


@pytest.mark.parametrize(
    ("benchmark", "completion", "reference", "strict", "lenient", "rules"),
    [
        ("aime", r"\boxed{\frac{66}{2}}", "33", "no_answer", "correct", "boxed_not_integer_disputed math_verify"),
        ("aime", r"\boxed{\frac{66}{2}}", "44", "no_answer", "no_answer", "boxed_not_integer boxed_not_integer"),
        ("aime", r"\boxed{33}</think> Done.", "33", "no_answer", "correct", "none_found thinking"),
        ("aime", "So n = 33, I think.", "33", "no_answer", "correct", "none_found last_number"),
        ("aime", "The answer is not 33.", "33", "no_answer", "no_answer", "none_found none_found"),
        ("aime", "It can't be 33.", "33", "no_answer", "no_answer", "none_found none_found"),
        ("aime", "There are 30, so we rule out 33.", "33", "no_answer", "no_answer", "none_found none_found"),
        (
            "aime",
            r"First I had \boxed{33}. No.</think> Hm.",
            "33",
            "no_answer",
            "no_answer",
            "none_found none_found",
        ),
        ("gsm8k", r"\boxed{\frac{7}{2}}", "3.5", "correct", "correct", "boxed_expression boxed_expression"),
        ("temporal_sequences", "Answer: (B) 6pm to 9pm", "(A)", "incorrect", "correct", "cue_inconsistent option_text"),
        ("folio", "Tom is a wild turkey.", "True", "no_answer", "correct", "none_found restated"),
        ("folio", "Tom is not a wild turkey.", "False", "no_answer", "correct", "none_found restated"),
        ("folio", "Tom is not a wild turkey.", "True", "no_answer", "no_answer", "none_found none_found"),
        ("musique", "3rd generation", "third generation", "incorrect", "correct", "whole_text number_words"),
        ("musique", "Answer: Apple Corps Limited", "Apple Corps", "incorrect", "correct", "cue contained"),
    ],
)
def test_lenient_verdicts_stand_beside_the_strict_ones(
    benchmark: str, completion: str, reference: str, strict: str, lenient: str, rules: str
) -> None:
    conclusion = "Tom is a wild turkey." if benchmark == "folio" else None
    verdict = grade_completion(benchmark, completion, "stop", reference, OPTIONS, conclusion)
    assert (verdict.outcome, verdict.lenient or verdict.outcome) == (strict, lenient)
    assert f"{verdict.rule} {verdict.lenient_rule or verdict.rule}" == rules


def test_the_whole_tail_has_an_f1_of_its_own() -> None:
    verdict = grade_completion("musique", "London? No.\n\nAnswer: Paris", "stop", "Paris")
    assert (verdict.f1, verdict.tail_f1) == (1.0, 0.4)


def test_truncated_answers_are_not_read_leniently_either() -> None:
    verdict = grade_completion("aime", r"<think>1</think>\boxed{33}", "length", "33")
    assert (verdict.outcome, verdict.lenient) == (Outcome.TRUNCATED, None)


@pytest.mark.parametrize("piece", ["1", r"\boxed{", "the ", "whether ", "Wait, no. ", r"\text{a} ", "(A) ", "**"])
@pytest.mark.parametrize("answer_type", AnswerType)
def test_a_text_that_loops_is_graded_all_the_same(piece: str, answer_type: AnswerType) -> None:
    assert grade(answer_type, piece * (9000 // len(piece)), "stop", REFERENCES[answer_type], OPTIONS).rule


HOSTILE = {
    "a megabyte": "so " * 350_000,
    "nested braces": "{" * 5_000 + r"\boxed{" * 5_000,
    "boxes never closed": "\\boxed{\n" * 20_000,
    "headings": "*** \n:\n" * 30_000,
    "commas": "," * 200_000,
    "digits": "1" * 10_000,
    "a box of digits": r"\boxed{" + "7" * 10_000 + "}",
    "answer tags": "<answer>" * 25_000,
    "a lone surrogate": r"\boxed{" + chr(0xD800) + "}",
    "a NUL": r"\boxed{" + chr(0) + "}",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("answer_type", AnswerType)
def test_a_hostile_text_is_graded_and_is_never_right(text: str, answer_type: AnswerType) -> None:
    verdict = grade(answer_type, text, "stop", REFERENCES[answer_type], OPTIONS)
    assert verdict.outcome in (Outcome.INCORRECT, Outcome.NO_ANSWER)


@pytest.mark.parametrize("answer_type", AnswerType)
def test_an_answer_at_the_end_of_a_megabyte_is_read(answer_type: AnswerType) -> None:
    text = "Hmm. " * 200_000 + f"\n\nFinal answer: {RIGHT[answer_type]}"
    assert grade(answer_type, text, "stop", REFERENCES[answer_type], OPTIONS).outcome is Outcome.CORRECT


def test_what_no_one_sees_does_not_count() -> None:
    assert grade(AnswerType.LABEL, "un\u00adcertain", "stop", "Uncertain").outcome is Outcome.CORRECT
    assert grade(AnswerType.INTEGER, "\\boxed{3\u200b3}", "stop", "33").outcome is Outcome.CORRECT

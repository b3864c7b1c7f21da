import pytest

from evaluate.answers import final_text
from evaluate.options import option_letter, parse_options, read_option

OPTIONS = "Options:\n(A) 6pm to 9pm\n(B) 7am to 11am\n(C) 1pm to 2pm\n(D) 2pm to 6pm"


CASES = [
    ("She was free from 6pm to 9pm, since from 7am to 11am she was out.", "A"),
    ("Not (A), not (B), not (D). So (C).", "C"),
    ('{"answer": "A"}', "A"),
    ("The answer is E.", None),
    ("**Answer:** (A) 6pm to 9pm", "A"),
    (r"\boxed{A}", "A"),
    ("Answer: **A**", "A"),
    ("So the answer is (A).\n</answer>\n\nThe correct answer is (A) 6pm to 9pm.", "A"),
    ("**(A)** fits. (B), (C) and (D) are all taken.", "A"),
    ("Answer: (A) 2pm to 6pm", "A"),
    ("(D)", "D"),
    ("D", "D"),
    ("d", "D"),
    ("(d)", "D"),
    ("The answer is 6pm to 9pm.", "A"),
    ("Susan could have gone between 6 PM and 9 PM.", "A"),
    ("6:00 p.m. - 9:00 p.m.", "A"),
    (r"\boxed{\text{(A) 6pm to 9pm}}", "A"),
    (r"\boxed{\text{6pm to 9pm}}", "A"),
    ("The answer is (A) or (B).", None),
    ("Either (A) or (B).", None),
    ("Answer: A or B", None),
    ("The answer is not (B). The answer is (A).", "A"),
    ("Option A is correct.", "A"),
    ("The correct option is B.", "B"),
    ("The correct choice is: **(C)**", "C"),
    ("A. 6pm to 9pm", "A"),
    ("A) 6pm to 9pm", "A"),
    ("It cannot be (B), (C) or (D), leaving only (A).", "A"),
    ("(B) is taken. (C) is taken. (D) is taken. So (A).", "A"),
    ("A time between the two is possible.", None),
    ("The answer is A time slot", None),
    ("Answer: A 6pm to 9pm", "A"),
    ("The only time Susan could have gone was 6pm to 9pm. She was at the mall from 7am to 11am.", "A"),
    (
        "She was out from 7am to 11am and from 2pm to 6pm. Therefore she could have gone from 6pm to 9pm.",
        "A",
    ),
    ("Answer: (X)", None),
    ("**Answer:**\n(B)", "B"),
    ("**Final Answer**\n\n\\boxed{C}", "C"),
    ("The answer is (A), not (B).", "A"),
    ("The answer is option (A) because (B) is taken.", "A"),
    ("I am not sure.", None),
    ("", None),
    ("**A**", "A"),
    ("The correct answer is **Option D: 2pm to 6pm**.", "D"),
    ("(A) 6pm to 9pm\n\nExplanation: she was at (B)...", "A"),
    ("Therefore, the answer is **(B) 7am to 11am**.", "B"),
    (r"\boxed{(A)}", "A"),
    (r"\boxed{\textbf{(B)}}", "B"),
    (r"$\boxed{\text{B}}$", "B"),
    ("**B. 7am to 11am**", "B"),
    ("The answer is: A", "A"),
    ("Answer: A)", "A"),
    ("A is the answer", "A"),
    ("(A) is the correct answer.", "A"),
    ("**Answer: Option (C)**", "C"),
    ("The answer is therefore (A)", "A"),
    ("So the answer must be (B)", "B"),
    ("the answer could be (A), but the correct one is (B)", "B"),
    ("None of the options", None),
    ("(A) No, wait. (B)", "B"),
    ("Options (A) and (C) both work", None),
    ("The answer: **6 pm to 9 pm**", "A"),
    ("So Susan's free time is 6pm to 9pm, which is option A.", "A"),
    ("The answer is (A)\nThe answer is (B)", "B"),
    ("Answer: a", "A"),
    ("answer: (a) 6pm to 9pm", "A"),
    ("Answer:A", "A"),
    ("It's (C)", "C"),
    ("Thus, A.", "A"),
    ("The answer isn't (A); it's (B).", "B"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_reads_the_committed_option(text: str, expected: str | None) -> None:
    assert read_option(final_text(text), OPTIONS).answer == expected


def test_letter_wins_over_text_and_says_so() -> None:
    reading = read_option("Answer: (A) 2pm to 6pm", OPTIONS)
    assert (reading.answer, reading.rule) == ("A", "cue_inconsistent")


def test_options_without_list_are_any_capital_letters() -> None:
    assert read_option("So the answer is (F).", None).answer == "F"
    assert read_option("6pm to 9pm", None).answer is None


@pytest.mark.parametrize("reference", ["(C)", "C", "c)", "1pm to 2pm", "(C) 1pm to 2pm", "1 PM - 2 PM"])
def test_references_name_a_letter(reference: str) -> None:
    assert option_letter(reference, parse_options(OPTIONS)) == "C"


@pytest.mark.parametrize("reference", ["(E)", "noon", "", "CD"])
def test_other_references_name_none(reference: str) -> None:
    assert option_letter(reference, parse_options(OPTIONS)) is None

import pytest

from evaluate.answers import final_text
from evaluate.integers import parse_integer, read_integer

CASES = [
    (r"\boxed{\phantom{0}33}", "33"),
    (r"\boxed{m=11, n=33}", None),
    (r"\boxed{33 = 3 \cdot 11}", "33"),
    (r"\boxed{33} is wrong; the answer is \boxed{34}.", "34"),
    ('{"answer": "033"}', "33"),
    (r"\boxed{33^{\circ}}", "33"),
    (r"\boxed{33^\circ}", "33"),
    (r"\boxed{33°}", "33"),
    (r"\boxed{33x}", None),
    (r"\boxed{33 million}", None),
    (r"\boxed{33 \pmod{1000}}", "33"),
    (r"\boxed{33 \text{ (mod 1000)}}", "33"),
    (r"\boxed{(33)}", "33"),
    ("Therefore, m+n = 33.", "33"),
    ("There are 30, checking n=33", None),
    ("$m+n=33$", "33"),
    (r"\boxed{204\text{ minutes}}", "204"),
    (r"\boxed{33\,\text{cm}^2}", "33"),
    (r"\boxed{33\text{ square units}}", "33"),
    (r"\boxed{33\mathrm{~cm}^3}", "33"),
    (r"\boxed{10{,}000}", "10000"),
    (r"\boxed{33\text{ km/h}}", "33"),
    (r"\boxed{\text{33 or 44}}", None),
    (r"\boxed{33 \quad}", "33"),
    (r"\boxed{m+n=33}", "33"),
    (r"\boxed{\text{The answer is }33}", "33"),
    ("There are 30 such pairs, and checking n=33 we are done.", None),
    ("So n is 33 or so?", None),
    (r"The answer is \frac{1}{2}", None),
    ("Thus the total is 33 pairs.", "33"),
    (r"\boxed{\frac{1}{2}}", None),
    (r"\boxed{\,33\,}", "33"),
    (r"\boxed{33}$ and \boxed{33}", "33"),
    ("The final answer is **33**.", "33"),
    ("My answer: 33.", "33"),
    ("The answer is 33, not 34.", "33"),
    ("I think the answer might be 33", None),
    ("The answer would be 33.", "33"),
    ("I got 33.", None),
    (r"\boxed{025}", "25"),
    (r"\boxed{12}. Wait, no. \boxed{33}", "33"),
    ("I was not able to finish.", None),
    (r"$xy = \boxed{025}$", "25"),
    (r"\boxed{\boxed{33}}", "33"),
    (r"\fbox{33}", "33"),
    (r"\framebox[3cm][c]{33}", "33"),
    (r"\boxed 33", "33"),
    (r"\boxed{33", "33"),
    (r"\boxed{\frac{66}{2}}", None),
    (r"\boxed{33, 44}", None),
    (r"\boxed{33} or \boxed{44}", None),
    (r"\boxed{33} and \boxed{33}", "33"),
    (r"The last line must be $\boxed{ANSWER}$. So: $\boxed{33}$", "33"),
    (r"\boxed{３３}", "33"),
    ("There are 30 such pairs, and checking n=33 we are done?", None),
    (r"\boxed{33.0}", "33"),
    (r"\boxed{33.5}", "33.5"),
    (r"\boxed{-33}", "-33"),
    (r"\boxed{p+q = 10+23 = 33}", "33"),
    ("The answer is 12 + 21 = 33.", "33"),
    ("The answer is 33 or 44", None),
    ("The answer is not 33", None),
    ("### Final Answer\n\n33", "33"),
    ("**Answer:**\n$33$", "33"),
    (r"\boxed{33}. Actually, wait: the answer is 34.", "34"),
    ("<answer>33</answer>", "33"),
    (r"\boxed{}", None),
    ("The answer to the problem is therefore 33.", "33"),
    ("Answer: 33 (since 3*11)", "33"),
    ("The answer is 2^5.", None),
    (r"\boxed{1{,}335}", "1335"),
    ("the sum of 12 and 33", None),
    (r"It is not \boxed{44}. It is \boxed{33}, not \boxed{44}.", "33"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_reads_the_committed_integer(text: str, expected: str | None) -> None:
    assert read_integer(final_text(text)).answer == expected


def test_rules_tell_how_it_was_read() -> None:
    texts = (r"\boxed{33}", "The answer is 33.", "33", "It is **33**.", "Thus the total is 33 pairs.", "I got 33.")
    rules = [read_integer(text).rule for text in texts]
    assert rules == ["boxed", "cue", "bare", "bold", "conclusion", "none_found"]


def test_an_expression_in_the_box_is_told_from_no_box() -> None:
    assert read_integer(r"\boxed{\frac{66}{2}}").rule == "boxed_not_integer"
    assert read_integer(r"\boxed{33} or \boxed{44}").rule == "hedged"


@pytest.mark.parametrize(("text", "value"), [("073", "73"), ("1,000", "1000"), ("- 7", "-7"), ("7/2", None)])
def test_parses_references(text: str, value: str | None) -> None:
    assert parse_integer(text) == value

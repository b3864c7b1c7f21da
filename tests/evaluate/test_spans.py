import pytest

from evaluate.answers import final_text
from evaluate.spans import exact_match, f1_score, normalize, read_span

CASES = [
    ("The answer is: **Casa Loma** (located in Toronto).", "Casa Loma"),
    ('{"answer": "Casa Loma"}', "Casa Loma"),
    (r"\boxed{\text{Apple Corps}}", "Apple Corps"),
    ("Physics", "Physics"),
    ("3rd generation", "3rd generation"),
    ("Jenna Louise Coleman", "Jenna Louise Coleman"),
    ("1,335,907", "1,335,907"),
    ("The answer is Apple Corps.", "Apple Corps"),
    ("**Answer:** Apple Corps", "Apple Corps"),
    ("The company is **Apple Corps**.", "Apple Corps"),
    ("The company is Apple Corps.", "Apple Corps"),
    ("I don't know.", None),
    ("Final Answer: Warner Bros. Records", "Warner Bros. Records"),
    (
        "Apple Corps\n\nIt was released by Badfinger on the Apple label of the Beatles.",
        "Apple Corps",
    ),
    ("Answer: Apple Corps, because Badfinger were signed to Apple Records by Mal Evans", "Apple Corps"),
    ("", None),
    ("The answer is March 11, 2011.", "March 11, 2011"),
    ("He was born on 1 January 1986.", "1 January 1986"),
    ("The population is 1,335,907.", "1,335,907"),
    ("Oriole Records.", "Oriole Records"),
    (
        "Let me think.\nIt is by Badfinger, on Apple Records, part of Apple Corps.\n**Apple Corps**",
        "Apple Corps",
    ),
    ('"Apple Corps"', "Apple Corps"),
    ("<answer>Apple Corps</answer>", "Apple Corps"),
    ("Answer:\nApple Corps", "Apple Corps"),
    ("**Apple Corps**", "Apple Corps"),
    (r"The answer is \boxed{Apple Corps}.", "Apple Corps"),
    ("The answer is 5 a.m.", "5 a.m"),
    ("The castle is called Casa Loma.", "Casa Loma"),
    ("Helen Mirren is the spouse of the producer.", "Helen Mirren is the spouse of the producer"),
    ("The answer to the question is the University of Glasgow.", "the University of Glasgow"),
    ("The Sea, Air, and Land", "The Sea, Air, and Land"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_reads_the_committed_span(text: str, expected: str | None) -> None:
    assert read_span(final_text(text)).answer == (expected or None)


@pytest.mark.parametrize(
    ("prediction", "reference", "is_exact", "f1"),
    [
        ("Apple Corps", "apple corps.", True, 1.0),
        ("the Beatles", "Beatles", True, 1.0),
        ("Jenna Louise Coleman", "Jenna - Louise Coleman", True, 1.0),
        ("1335907", "1,335,907", True, 1.0),
        ("3rd generation", "third generation", False, 0.5),
        ("Casa Loma castle in Toronto", "Casa Loma", False, 4 / 7),
        ("Paris Paris", "Paris", False, 2 / 3),
        ("Children’s Hour", "Children's Hour", True, 1.0),
        ("The", "A", True, 1.0),
        ("The", "Beatles", False, 0.0),
        ("Rome", "Paris", False, 0.0),
    ],
)
def test_official_scores(prediction: str, reference: str, is_exact: bool, f1: float) -> None:
    assert exact_match(prediction, reference) is is_exact
    assert f1_score(prediction, reference) == pytest.approx(f1)


def test_normalizing_keeps_letters_of_other_alphabets() -> None:
    assert normalize("The  Gmina Jordanów!") == "gmina jordanów"

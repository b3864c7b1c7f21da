import pytest

from evaluate.answers import final_text
from evaluate.labels import canonical_label, read_label

CASES = [
    ("It is false that the conclusion is true.", "False"),
    ("The conclusion that it is true that Tom flies is false.", "False"),
    ("Therefore, the conclusion does not hold.", "False"),
    ("**Answer:** The conclusion is uncertain.", "Uncertain"),
    (r"\boxed{\text{Uncertain}}", "Uncertain"),
    (
        "That X is **false**.\n\n**Why**: 2 is true (True, because 3).\n\n**Answer:** The conclusion is false.",
        "False",
    ),
    ("The conclusion that X is **false**.\n\n**Explanation**: premise 2 is true, so ... (True, because 3).", "False"),
    ("**Final Answer:** Tom is an Ocellated wild turkey.", None),
    ("It is indeterminate / cannot be determined.", "Uncertain"),
    ("ANSWER:\tUncertain due to contradiction in premises\n", "Uncertain"),
    ("ANSWER:\tInvalid premises.", None),
    ("Overall, the statement is either True or Uncertain.", None),
    ("True", "True"),
    ("The statement is not true.", "False"),
    ("The conclusion is not necessarily true.", "Uncertain"),
    ("The conclusion is not false.", "True"),
    ("The conclusion cannot be proven true or false.", "Uncertain"),
    ("There is not enough information to say whether it is true.", "Uncertain"),
    ("We cannot conclude that he is a human, so the statement is false.", "False"),
    ("We can't determine whether the conclusion is true or false, so it is uncertain", "Uncertain"),
    ("The conclusion is neither true nor false.", "Uncertain"),
    ("Answer: Unknown", "Uncertain"),
    ("Answer: T", "True"),
    (r"\boxed{F}", "False"),
    ("Answer: False, since it is true that all cats are mammals.", "False"),
    ("The conclusion is true because the premise is not false.", "True"),
    ("Based on the premises, the conclusion is definitely false.", "False"),
    ("The truth value of the conclusion is uncertain.", "Uncertain"),
    ("The statement is incorrect.", "False"),
    ("The correct answer is **False**.", "False"),
    ("The answer is (B) False", "False"),
    ("The conclusion is undetermined", "Uncertain"),
    ("It's insufficient information.", "Uncertain"),
    ("Insufficient information.", "Uncertain"),
    ("The conclusion does not follow from the premises.", "Uncertain"),
    ("Is the conclusion true, false, or uncertain? It is false.", "False"),
    ("The conclusion could be true or false.", "Uncertain"),
    ("The conclusion can be neither proven nor refuted", "Uncertain"),
    ('Therefore, the statement "If Ted is a cow, then Ted is not a pet" is false.', "False"),
    ("The premises are all true. The conclusion is false.", "False"),
    ("The conclusion is false. The premises are all true.", "False"),
    ("**True**", "True"),
    ("true.", "True"),
    ("FALSE", "False"),
    ("Answer: **Uncertain**\n\nIt is not true nor false..", "Uncertain"),
    ("The answer is not true.", "False"),
    ("The answer is that the conclusion is false.", "False"),
    ("The conclusion is uncertain, as we do not know if it is true.", "Uncertain"),
    ("Answer: it is true", "True"),
    ("The conclusion is not uncertain; it is true.", "True"),
    ("The conclusion remains uncertain.", "Uncertain"),
    ("The conclusion logically follows from the premises.", "True"),
    ("It cannot be determined from the premises whether Tom is a turkey.", "Uncertain"),
    ("True. (The conclusion is true.)", "True"),
    ("So it is true that Tom is a turkey, and the conclusion is therefore True.", "True"),
    ("The statement cannot be true.", "False"),
    ("The statement is untrue", "False"),
    ("I don't know.", None),
    ("The conclusion is True/False", None),
    ("The answer is: cannot be determined", "Uncertain"),
    ('The answer is "uncertain".', "Uncertain"),
    (r"$\boxed{\text{False}}$", "False"),
    (r"\boxed{The conclusion is true}", "True"),
    ("The conclusion is contradicted by the premises.", "False"),
    ("It is not the case that the conclusion is true.", "False"),
    ("The conclusion can't be confirmed or denied", "Uncertain"),
    ("The conclusion is not supported by the premises.", None),
    ("The conclusion is not certain", "Uncertain"),
    ("The conclusion is not entirely true", "False"),
    ("We conclude that it is unclear.", "Uncertain"),
    ("Answer: The conclusion is false (not uncertain).", "False"),
    ("Answer: The conclusion is true, not uncertain.", "True"),
    ("Answer: not true but uncertain", "Uncertain"),
    ("Neither.", "Uncertain"),
    ("undetermined", "Uncertain"),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_reads_the_committed_label(text: str, expected: str | None) -> None:
    assert read_label(final_text(text)).answer == expected


def test_emphasis_in_an_explanation_is_no_label() -> None:
    text = """**Answer:** Tom must be an Ocellated wild turkey.

    - Tom is **not** an Eastern wild turkey.
    - Tom is **neither** a Merriam's wild turkey **nor** a Rio Grande wild turkey."""
    assert read_label(text).answer is None


def test_a_supposition_is_no_label() -> None:
    assert read_label("The conclusion is false. If the conclusion were true, Tom would fly.").answer == "False"


@pytest.mark.parametrize(("text", "label"), [("true", "True"), ("Unknown", "Uncertain"), ("maybe", None)])
def test_references_name_a_label(text: str, label: str | None) -> None:
    assert canonical_label(text) == label

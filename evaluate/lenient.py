"""The lenient verdict: which rule, if any, takes for right what the strict reader did not.

thinking      nothing was committed after the thinking, but the thinking itself commits to it
math_verify   the boxed expression has the reference's value (AIME's 66/2 for 33)
last_number   no number was committed, and the last one mentioned is it
option_text   the letter is another option's, the text beside it is right
restated      no label, but the conclusion is repeated (True) or denied (False) word by word
number_words  equal once "third" is 3rd and "two" is 2
contained     the reference stands, whole, within the answer

Strict is what is reported as the accuracy; the two side by side say how much hangs on the reading.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.answer_types import AnswerType, is_right, read
from evaluate.answers import Reading, fold, sentences
from evaluate.integers import last_number
from evaluate.options import spelled_options
from evaluate.spans import contains, normalize, number_words_to_digits
from evaluate.symbolic import are_equal

_THINKING_TAIL = 4000  # characters; an answer that is committed to stands at the end
_PLAIN_NUMBER = re.compile(r"\s*[-+]?\d+\s*")


@dataclass(frozen=True)
class Accepted:
    """What the answer is compared with. references: any of them will do; options, conclusion: see grading.grade."""

    answer_type: AnswerType
    references: Sequence[str]
    options: str | None = None
    conclusion: str | None = None

    def holds(self, answer: str | None) -> bool:
        """Whether an answer, as a reader returned it, is right."""
        return answer is not None and any(is_right(self.answer_type, answer, r, self.options) for r in self.references)


def symbolic_opinion(accepted: Accepted, reading: Reading) -> bool | None:
    """What math-verify says of a boxed integer; None where it has nothing to add: plain digits, no box, no end."""
    if accepted.answer_type is not AnswerType.INTEGER or not reading.quote or _PLAIN_NUMBER.fullmatch(reading.quote):
        return None
    return any(are_equal(reading.quote, r) is True for r in accepted.references)


def lenient_rule(
    accepted: Accepted, reading: Reading, text: str, thinking: str | None, opinion: bool | None
) -> str | None:
    """Returns the id of the rule by which a wrong or missing answer counts as right, None where there is none.

    text: what was said after the thinking. opinion: math-verify's, see symbolic_opinion.
    """
    if opinion:
        return "math_verify"
    if reading.answer is None and thinking:
        thought = read(accepted.answer_type, fold(thinking[-_THINKING_TAIL:]), accepted.options)
        if accepted.holds(thought.answer):
            return "thinking"
    match accepted.answer_type:
        case AnswerType.INTEGER | AnswerType.NUMBER if reading.rule == "none_found":
            return "last_number" if accepted.holds(last_number(text)) else None
        case AnswerType.OPTION if reading.quote:
            spelled = spelled_options(reading.quote, accepted.options)
            return "option_text" if any(accepted.holds(letter) for letter in spelled) else None
        case AnswerType.LABEL if reading.answer is None and accepted.conclusion:
            return "restated" if accepted.holds(_restated(text, accepted.conclusion)) else None
        case AnswerType.SPAN if reading.answer is not None:
            return _similar(reading.answer, accepted.references)
    return None


def _restated(text: str, conclusion: str) -> str | None:
    """True where a sentence repeats the conclusion, False where it does but for one added or missing "not"."""
    claim = normalize(conclusion).split()
    for sentence in reversed(sentences(text)):
        words = normalize(sentence).split()
        if " ".join(claim) in " ".join(words):
            return "True"
        denied = [w for w in words if w != "not"]
        if len(words) != len(denied) and " ".join(w for w in claim if w != "not") in " ".join(denied):
            return "True" if "not" in claim else "False"
    return None


def _similar(answer: str, references: Sequence[str]) -> str | None:
    digits = {number_words_to_digits(r) for r in references}
    if number_words_to_digits(answer) in digits:
        return "number_words"
    return "contained" if any(contains(answer, r) for r in references) else None

"""The generated tasks: splits disjoint, labels right by code that shares nothing with the generators."""

import json
import os
import re
from collections.abc import Callable, Mapping
from itertools import islice, product
from pathlib import Path

import pytest

from evaluate.benchmarks import arithmetic, logic, recall, temporal
from evaluate.benchmarks.generation import split_of
from evaluate.benchmarks.words import OBJECTS, PEOPLE, PLACES, VERB_PHRASES, VERBS
from evaluate.schema import Item

TASKS = {"temporal": temporal, "logic": logic, "arithmetic": arithmetic, "recall": recall}
TEST_DATA = Path(os.environ.get("SWEEP_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
BBH = TEST_DATA / "bbh" / "temporal_sequences.json"


def items(task: str, split: str, count: int, seed: int = 0) -> list[Item]:
    return list(TASKS[task].generate(split, count, seed))


@pytest.mark.parametrize("task", TASKS)
def test_no_question_is_on_both_sides(task: str) -> None:
    train = {item.problem.question for seed in range(2) for item in items(task, "train", 2000, seed)}
    test = {item.problem.question for seed in range(2) for item in items(task, "test", 150, seed)}
    assert not train & test
    assert all(split_of(question) == "test" for question in test)


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_items_and_another_seed_others(task: str) -> None:
    assert items(task, "train", 20, seed=5) == items(task, "train", 20, seed=5)
    assert items(task, "test", 20, seed=5) != items(task, "test", 20, seed=6)


@pytest.mark.parametrize("task", TASKS)
def test_a_smaller_set_is_a_prefix_of_a_larger_one(task: str) -> None:
    assert items(task, "test", 10) == items(task, "test", 25)[:10]


@pytest.mark.parametrize("task", TASKS)
def test_test_items_never_repeat_and_ids_are_unique(task: str) -> None:
    drawn = items(task, "test", 300)
    assert len({item.problem.question for item in drawn}) == len({item.problem.problem_id for item in drawn}) == 300


@pytest.mark.parametrize("task", TASKS)
def test_generators_are_lazy(task: str) -> None:
    assert len(list(islice(TASKS[task].generate("train", 10**12, 0), 3))) == 3


@pytest.mark.parametrize("task", TASKS)
def test_completions_think_and_then_answer_with_the_reference(task: str) -> None:
    for item in items(task, "train", 200):
        thinking, separator, answer = item.completion.rpartition("\n</think>\n")
        assert separator and thinking.startswith("<think>\n") and "think>" not in answer
        expected = f"\\boxed{{{item.problem.reference}}}" if task == "arithmetic" else item.problem.reference
        assert answer == expected


def parse_hour(text: str) -> int:
    number, half = re.fullmatch(r"(\d+)([ap]m)", text).groups()
    return int(number) % 12 + (12 if half == "pm" else 0)


def check_temporal(item: Item) -> None:
    """Hour by hour: the answer is the one option that is free from its start to its end."""
    question = item.problem.question
    woke, closed = (parse_hour(re.search(rf"{word} (\w+)\.", question)[1]) for word in ("woke up at", "closed after"))
    seen = re.findall(r"^\w+ saw .* from (\w+) to (\w+)\.$", question, re.M)
    busy = {hour for start, end in seen for hour in range(parse_hour(start), parse_hour(end))}
    free = set(range(woke, closed)) - busy
    options = re.findall(r"^(\([A-D]\)) (\w+) to (\w+)$", question, re.M)
    right = [name for name, start, end in options if set(range(parse_hour(start), parse_hour(end))) <= free]
    assert len(seen) >= 3 and len(options) == 4 and right == [item.problem.reference]
    assert item.problem.options is not None and question.endswith(item.problem.options)


BASE_FORMS = dict(VERB_PHRASES)
THIRD = "|".join(sorted(BASE_FORMS, key=len, reverse=True))
BASE = "|".join(sorted(BASE_FORMS.values(), key=len, reverse=True))
LITERAL = rf"(is (?:not )?(?:an? )?\w+|does not (?:{BASE}|\w+)|{THIRD}|\w+es)"


def parse_literal(text: str) -> tuple[str, bool]:
    """The predicate, verbs in their base form, and whether it is affirmed."""
    if match := re.fullmatch(r"does not (.+)", text):
        return match[1], False
    if text.startswith("is "):
        return text.replace("is not ", "is "), not text.startswith("is not ")
    return BASE_FORMS.get(text) or text.removesuffix("s"), True


def parse_premise(sentence: str, person: str) -> Callable[[Mapping[str, bool]], bool] | None:
    """Whether a world, the truth of each predicate of `person`, agrees with a sentence; None if about another."""

    def holds(literal: str, world: Mapping[str, bool]) -> bool:
        predicate, affirmed = parse_literal(literal)
        return world[predicate] == affirmed

    def full(pattern: str) -> list[str] | None:
        match = re.fullmatch(pattern.replace("LIT", LITERAL), sentence)
        return list(match.groups()) if match else None

    if found := full(r"(?:If someone|Everyone who) LIT and LIT(?:, then that person)? LIT\."):
        a, b, c = found
        return lambda world: not (holds(a, world) and holds(b, world)) or holds(c, world)
    if found := full(r"(?:If someone|Everyone who) LIT(?:, then that person)? LIT\."):
        a, c = found
        return lambda world: not holds(a, world) or holds(c, world)
    if found := full(r"Everyone LIT or LIT, (or both|but not both)\."):
        a, b, kind = found
        return lambda world: (holds(a, world) + holds(b, world)) in ((1, 2) if kind == "or both" else (1,))
    if found := full(r"No one who LIT LIT\."):
        a, b = found
        return lambda world: not (holds(a, world) and holds(b, world))
    name, fact = re.fullmatch(rf"(\w+) {LITERAL}\.", sentence).groups()
    return (lambda world: holds(fact, world)) if name == person else None


def check_logic(item: Item) -> None:
    """By the truth table over the predicates that the text names, read from the text alone."""
    head, *premises, conclusion, _ = item.problem.question.split("\n")
    person, claim = re.fullmatch(rf"Conclusion: (\w+) {LITERAL}\.", conclusion).groups()
    predicate, affirmed = parse_literal(claim)
    named = {parse_literal(literal)[0] for line in (*premises, conclusion) for literal in find_literals(line)}
    checks = [check for line in premises if (check := parse_premise(line, person))]
    worlds = [dict(zip(named, values, strict=True)) for values in product((False, True), repeat=len(named))]
    verdicts = {world[predicate] == affirmed for world in worlds if all(check(world) for check in checks)}
    labels = {(True,): "True", (False,): "False", (False, True): "Uncertain"}
    assert head == "Premises:" and item.problem.reference == labels[tuple(sorted(verdicts))]


def find_literals(sentence: str) -> list[str]:
    frame = r"(?:If someone|Everyone who|Everyone|No one who|Conclusion: \w+|\w+) "
    rest = re.sub(frame, "", sentence, count=1)
    return re.findall(rf"(?:^|and |or |person |(?<=\w) ){LITERAL}(?= |,|\.)", rest)


def check_arithmetic(item: Item) -> None:
    """Expressions by Python's own evaluation; every line of every thinking as an equation that holds."""
    lines = item.completion.split("\n")[1:-2]
    assert 1 <= len(lines) <= 10
    for line in lines:
        left, result = line.split(" = ")
        assert eval(left) == int(result) and 0 <= int(result) <= 999
    assert 0 <= int(item.problem.reference) <= 999 and int(lines[-1].split(" = ")[1]) == int(item.problem.reference)
    if match := re.fullmatch(r"Compute (.+)\. Put the answer in \\boxed\{\}\.", item.problem.question):
        assert eval(match[1]) == int(item.problem.reference)
    else:
        assert tell(item.problem.question) == int(item.problem.reference)


def tell(story: str) -> int:
    """The running count of a word problem, from its words."""
    count = 0
    for sentence in story.split(". ")[:-1]:
        numbers = [int(number) for number in re.findall(r"\d+", sentence)]
        amount = numbers[0] * numbers[1] if " bags of " in sentence else numbers[0]
        if " has " in sentence:
            count = amount
        elif "times as large" in sentence:
            count *= amount
        elif "equal heaps" in sentence:
            assert count % amount == 0
            count //= amount
        elif re.search(r" (buys|finds|wins|makes) ", sentence):
            count += amount
        else:
            assert re.search(r" (sells|loses|throws away|gives) ", sentence)
            count -= amount
    return count


def check_recall(item: Item) -> None:
    """By following the chain backwards through single facts, each as a train question states it."""
    relations, start = re.fullmatch(r"\w+(?: \w+)? is the (.+) of (\w+)\?", item.problem.question).groups()
    entity = start
    for name in reversed(relations.split(" of the ")):
        entity = recall.build_world().facts[name, entity]
    assert entity == item.problem.reference and item.problem.metadata["steps"] in "23"


CHECKS = {"temporal": check_temporal, "logic": check_logic, "arithmetic": check_arithmetic, "recall": check_recall}


@pytest.mark.parametrize("task", CHECKS)
def test_labels_are_right(task: str) -> None:
    for item in items(task, "test", 300):
        CHECKS[task](item)


@pytest.mark.skipif(not BBH.exists(), reason=f"no {BBH}")
def test_word_lists_share_nothing_with_temporal_sequences() -> None:
    text = [example["input"] for example in json.loads(BBH.read_text())["examples"]]
    names = {name for question in text for name in re.findall(r"^(\w+) (?:saw|woke)", question, re.M)}
    places = {re.search(r"went to (?:the )?(.+?)\.", question)[1] for question in text}
    acts = {act for question in text for act in re.findall(r"^\w+ saw \w+ (.+) from", question, re.M)}
    places |= {match[1] for act in acts if (match := re.search(r"(?:at|near|on|in|to|towards) (?:the |a )?(.+)$", act))}
    assert len(names) == 30 and len(places) > 30 and len(acts) == 22
    assert not names & set(PEOPLE)
    assert not places & set(PLACES)
    starts = {f"{verb} {thing}" for verb in VERBS for thing in OBJECTS}
    assert not [act for act in acts if any(act.startswith(start) for start in starts)]

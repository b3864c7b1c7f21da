"""`arithmetic`: problems of one to ten operations with an integer answer from 0 to 999, in \\boxed{} as AIME's.

Half are word problems about one running count, half nested expressions. Every intermediate value is an integer from
0 to 999, and the thinking writes one operation a line, in the order of evaluation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from evaluate.benchmarks.generation import Split, invent_word, make_problem, pick_names, stream
from evaluate.benchmarks.words import THINGS
from evaluate.schema import Item

GENERATOR_VERSION = "1"

MAX_VALUE = 999
MAX_FACTOR = 99
MAX_DIVISOR = 32
MAX_OPERATIONS = 10


@dataclass(frozen=True)
class Expression:
    """A text with its value and the lines that evaluate it; no lines means a bare number."""

    text: str
    value: int
    lines: tuple[str, ...] = ()

    @property
    def operand(self) -> str:
        return f"({self.text})" if self.lines else self.text


def generate(split: Split, num_problems: int, seed: int) -> Iterator[Item]:
    """Items of one split; the reference is the integer in decimal, the completion ends in \\boxed{...}."""
    return stream(_build, split, num_problems, seed)


def _build(rng: Random) -> Item:
    num_operations = rng.randint(1, MAX_OPERATIONS)
    if rng.random() < 0.5:
        question, value, lines = _tell_story(rng, num_operations)
    else:
        expression = _nest(rng, num_operations)
        question, value, lines = f"Compute {expression.text}.", expression.value, expression.lines
    question += " Put the answer in \\boxed{}."
    problem = make_problem("arithmetic", question, str(value), steps=str(len(lines)))
    return Item(problem, "<think>\n" + "\n".join(lines) + f"\n</think>\n\\boxed{{{value}}}")


def _number(rng: Random) -> int:
    """Small numbers more often than large ones."""
    return rng.randint(1, rng.choice((9, 20, 99, 99, 300)))


def _nest(rng: Random, num_operations: int) -> Expression:
    """A random expression with `num_operations` operators, fully parenthesized."""
    if num_operations == 0:
        value = _number(rng)
        return Expression(str(value), value)
    num_left = rng.randrange(num_operations)
    left, right = _nest(rng, num_left), _nest(rng, num_operations - 1 - num_left)
    if left.value < right.value and (rng.random() < 0.5 or left.value + right.value > MAX_VALUE):
        left, right = right, left
    operator = rng.choice(_operators(left.value, right.value))
    value = _apply(operator, left.value, right.value)
    line = f"{left.value} {operator} {right.value} = {value}"
    text = f"{left.operand} {operator} {right.operand}"
    return Expression(text, value, (*left.lines, *right.lines, line))


def _operators(left: int, right: int) -> list[str]:
    """The operators whose result is an integer from 0 to MAX_VALUE; never empty once left >= right."""
    allowed = []
    if left + right <= MAX_VALUE:
        allowed.append("+")
    if left >= right:
        allowed.append("-")
    if left * right <= MAX_VALUE and max(left, right) <= MAX_FACTOR:
        allowed += ["*", "*"]
    if 2 <= right <= MAX_DIVISOR and left % right == 0 and left > 0:
        allowed += ["/", "/", "/"]
    return allowed


def _apply(operator: str, left: int, right: int) -> int:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left // right


def _tell_story(rng: Random, num_operations: int) -> tuple[str, int, tuple[str, ...]]:
    """A question about one person's running count, its answer, and the lines that compute it."""
    person, friend = pick_names(rng, 2)
    things = rng.choice(THINGS) if rng.random() < 0.5 else invent_word(rng, rng.randint(1, 2)) + "s"
    count = _number(rng)
    sentences = [f"{person} has {count} {things}."]
    lines: list[str] = []
    while len(lines) < num_operations:
        sentence, count, new_lines = _draw_event(rng, person, friend, things, count, num_operations - len(lines))
        sentences.append(sentence)
        lines += new_lines
    sentences.append(f"How many {things} does {person} have now?")
    return " ".join(sentences), count, tuple(lines)


def _draw_event(
    rng: Random, person: str, friend: str, things: str, count: int, num_left: int
) -> tuple[str, int, list[str]]:
    """What happens next to `count` things: a sentence, the new count, one line an operation (at most `num_left`)."""
    while True:
        kind = rng.choice(("gain", "lose", "times", "share", "gain packs", "lose packs"))
        amount = _number(rng)
        packs, size = rng.randint(2, 20), rng.randint(2, 20)
        match kind:
            case "gain" if count + amount <= MAX_VALUE:
                verb = rng.choice(("buys", "finds", "wins", "makes"))
                return f"{person} {verb} {amount} {things}.", *_step(count, "+", amount)
            case "lose" if amount <= count:
                verb = rng.choice(("sells", "loses", "throws away", "gives " + friend))
                return f"{person} {verb} {amount} {things}.", *_step(count, "-", amount)
            case "times" if 0 < count <= MAX_VALUE // packs:
                return f"Then the number of {things} grows {packs} times as large.", *_step(count, "*", packs)
            case "share":
                divisors = [d for d in range(2, MAX_DIVISOR + 1) if count and count % d == 0]
                if divisors:
                    d = rng.choice(divisors)
                    return f"{person} splits the {things} into {d} equal heaps and keeps one.", *_step(count, "/", d)
            case "gain packs" if num_left >= 2 and count + packs * size <= MAX_VALUE:
                return f"{person} buys {packs} bags of {size} {things}.", *_pack_steps(count, "+", packs, size)
            case "lose packs" if num_left >= 2 and packs * size <= count:
                return f"{person} sells {packs} bags of {size} {things}.", *_pack_steps(count, "-", packs, size)
            case _:
                continue


def _step(left: int, operator: str, right: int) -> tuple[int, list[str]]:
    value = _apply(operator, left, right)
    return value, [f"{left} {operator} {right} = {value}"]


def _pack_steps(count: int, operator: str, packs: int, size: int) -> tuple[int, list[str]]:
    total, first = _step(packs, "*", size)
    value, second = _step(count, operator, total)
    return value, first + second

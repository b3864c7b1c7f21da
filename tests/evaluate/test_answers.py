import pytest

from evaluate.answers import after_cues, detex, final_text, find_bold, find_boxes, fold, sentences, thinking_of


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("<think>\n1\n</think>\n2", "2"),
        ("1</think>2</think> 3", "3"),
        ("no tag at all", "no tag at all"),
        ("<think>never closed", "never closed"),
        ("1</think>2<think>3", "2"),
        ("1</think>", ""),
        ("1</think>so <answer> 33 </answer> done", "33"),
        ("(A)\n</answer>\n(A)", "(A)\n\n(A)"),
        ("33<|im_end|>", "33"),
        ("33<｜end▁of▁sentence｜>", "33"),
    ],
)
def test_final_text_follows_the_last_thought(completion: str, text: str) -> None:
    assert final_text(completion) == text


@pytest.mark.parametrize(
    ("completion", "thinking"),
    [("<think>1</think>2", "<think>1"), ("<think>1", "<think>1"), ("1</think>2</think>3", "1</think>2"), ("1", None)],
)
def test_thinking_is_what_stands_before_it(completion: str, thinking: str | None) -> None:
    assert thinking_of(completion) == thinking


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        (r"\boxed{1} and \boxed{2}", ["1", "2"]),
        (r"\boxed{\frac{a}{b}}", [r"\frac{a}{b}"]),
        (r"\boxed{\boxed{33}}", [r"\boxed{33}"]),
        (r"\boxed{\{1\}}", [r"\{1\}"]),
        (r"\boxed 33", ["33"]),
        (r"\boxed{33", ["33"]),
        ("\\boxed{33\nmore", ["33"]),
        (r"\fbox{A} \framebox[2cm]{B}", ["A", "B"]),
        (r"\boxedx{1}", []),
    ],
)
def test_boxes_are_found_with_balanced_braces(text: str, contents: list[str]) -> None:
    assert [box.text for box in find_boxes(text)] == contents


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        (r"\text{Apple Corps}", "Apple Corps"),
        (r"\textbf{\text{A}}", "A"),
        (r"$10{,}000\,\text{km}$", "10,000 km"),
        (r"\left(A\right)", "(A)"),
        (r"R\&B", "R&B"),
        ("**bold**", "bold"),
    ],
)
def test_typesetting_comes_off(text: str, bare: str) -> None:
    assert detex(text) == bare


def test_look_alikes_are_folded_and_superscripts_are_not() -> None:
    assert fold("３３　Ａ “x” – 5²") == '33 A "x" - 5²'


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("The answer is 5. Final Answer: **6**", ["5.", "6"]),
        ("**Answer:**\n\n7", ["7"]),
        ("ANSWER:\tFalse\n", ["False"]),
        ("The answer isn't 5", []),
        ("The answer to the riddle is 8.\n\nMore", ["8."]),
        ("answers are many", []),
    ],
)
def test_cues_name_what_follows_them(text: str, pieces: list[str]) -> None:
    assert after_cues(text) == pieces


def test_bold_and_sentences() -> None:
    assert find_bold(r"**a** b __c__ \textbf{d} ** e") == ["a", "c", "d"]
    assert sentences("It is so. But why?\n- Because. 3.5 m") == ["It is so.", "But why?", "- Because.", "3.5 m"]

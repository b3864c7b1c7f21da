"""Calibration: from files and memory to token rows."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from compress.calibration import Calibration, calibration_rows, load_calibration
from compress.errors import CalibrationError

REPLY = "<think>\nto market\n</think>\nnoon"
CHAT = ({"role": "user", "content": "anna went"}, {"role": "assistant", "content": REPLY})


def test_joined_text_is_cut_into_whole_rows(llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    path = tmp_path / "text.txt"
    path.write_text("anna went to the old market\n" * 50)
    tokens = tokenizer(path.read_text())["input_ids"]
    count = len(tokens) // 16
    rows = calibration_rows(load_calibration(path, num_samples=count, max_seq_length=16), tokenizer)
    assert sorted(rows) == sorted(tokens[i * 16 : (i + 1) * 16] for i in range(count))
    short = load_calibration(path, num_samples=count + 1, max_seq_length=16)
    with pytest.raises(CalibrationError, match=f"{count} rows of 16 tokens .{len(tokens)} tokens in all"):
        calibration_rows(short, tokenizer)


def test_items_are_one_row_each_cut_at_the_limit(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    texts = ("anna", "anna went to the market and saw her there")
    rows = calibration_rows(Calibration(texts=texts, num_samples=2, max_seq_length=5), tokenizer)
    assert sorted(rows, key=len) == [tokenizer(texts[0])["input_ids"], tokenizer(texts[1])["input_ids"][:5]]
    with pytest.raises(CalibrationError, match=r"num_samples is 3.*2 items"):
        calibration_rows(Calibration(texts=texts, num_samples=3), tokenizer)


def test_the_seed_draws_the_rows(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    texts = tuple(f"anna went {index}" for index in range(30))
    draws = [calibration_rows(Calibration(texts=texts, num_samples=5, seed=s), tokenizer) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_a_conversation_is_the_prompt_and_the_reply_word_for_word(llama: Path, tmp_path: Path) -> None:
    """The template of this tokenizer drops the thinking, as many do; the calibration must not."""
    tokenizer = AutoTokenizer.from_pretrained(llama)
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": list(CHAT)}) + "\n\n")
    loaded = load_calibration(path, num_samples=1)
    assert loaded.conversations == (CHAT,)
    (row,) = calibration_rows(loaded, tokenizer)
    assert tokenizer.decode(row) == "<|user|>anna went\n<|assistant|><think>\nto market\n</think>\nnoon"


def test_a_think_tag_of_the_template_is_not_doubled(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|assistant|>{% endif", "<|assistant|><think>\n{% endif")
    (row,) = calibration_rows(Calibration(conversations=(CHAT,), num_samples=1), tokenizer)
    assert tokenizer.decode(row) == "<|user|>anna went\n<|assistant|><think>\nto market\n</think>\nnoon"


def test_messages_need_a_chat_template(llama: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = None
    with pytest.raises(CalibrationError, match="no chat template"):
        calibration_rows(Calibration(conversations=(CHAT,), num_samples=1), tokenizer)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('No system role') }}", r"conversation of user, must be such as .*No system role"),
        ("{% for m in messages %}", "conversation of user"),
    ],
)
def test_a_template_that_refuses_a_conversation_is_heard(llama: Path, template: str, said: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = template
    conversation = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "!"})
    with pytest.raises(CalibrationError, match=said):
        calibration_rows(Calibration(conversations=(conversation,), num_samples=1), tokenizer)


def test_content_hash_names_everything() -> None:
    base = {"texts": ("a", "b"), "num_samples": 2, "max_seq_length": 8, "seed": 0}
    changes = [{}, {"texts": ("a", "c")}, {"num_samples": 1}, {"max_seq_length": 9}, {"seed": 1}, {"joined": True}]
    changes += [{"texts": (), "conversations": (CHAT,)}, {"first_token_weight": 64}]
    assert len({Calibration(**{**base, **change}).content_hash for change in changes}) == len(changes)
    assert Calibration(**base).content_hash == Calibration(**base).content_hash


def test_no_weight_leaves_the_hash_as_it_was() -> None:
    """Checkpoints that are there are found again."""
    assert Calibration(texts=("a",)).content_hash == Calibration(texts=("a",), first_token_weight=1.0).content_hash
    assert Calibration(texts=("a",)).content_hash == "a536265cf08a5e9f"


@pytest.mark.parametrize("weight", [0, -1, True, "8", 1e7, float("nan")])
def test_a_first_token_weight_that_counts_nothing(weight: object) -> None:
    with pytest.raises(CalibrationError, match="first_token_weight is"):
        Calibration(texts=("a",), first_token_weight=weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "", "empty"),
        ("a.csv", "x", "a .txt or a .jsonl file"),
        ("a.jsonl", '{"text": "x"}\nnope\n', "line 2 is no JSON"),
        ("a.jsonl", '{"txt": "x"}\n', r"line 1 is without usable text \(txt\)"),
        ("a.jsonl", '{"text": "  "}\n', "line 1"),
        ("a.jsonl", '{"messages": [{"role": "user"}]}\n', "line 1"),
        ("a.jsonl", "[1]\n", "line 1"),
        ("a.jsonl", '{"text": "x"}\n{"text": "\\ud800"}\n', "line 2 is with half a character"),
        ("a.jsonl", '{"text": "x"}\n{"messages": [{"role": "user", "content": "y"}]}\n', "text and messages"),
        ("missing.txt", None, "No such file"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CalibrationError, match=said):
        load_calibration(tmp_path / name)


CHANGES = [{"num_samples": 0}, {"max_seq_length": 0}, {"seed": -1}, {"texts": ()}, {"texts": ("",)}]


@pytest.mark.parametrize("change", CHANGES)
def test_bad_settings_are_refused(change: dict) -> None:
    with pytest.raises(CalibrationError):
        Calibration(**{"texts": ("a",), **change})

"""Calibration text: what the Hessians are measured on.

A Calibration is plain text, kept apart from any tokenizer; calibration_rows turns it into token rows for one model.
Joined text is tokenized once and cut into rows of max_seq_length; separate texts and conversations are one row each,
from position 0 as at inference, cut at max_seq_length.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import CalibrationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Conversation = Sequence[Mapping[str, str]]
MAX_SAMPLES, MAX_LENGTH, MAX_SEED, MAX_WEIGHT = 1_000_000, 1_048_576, 2**32 - 1, 1e6


@dataclass(frozen=True)
class Calibration:
    """texts, or conversations (lists of {"role", "content"}, the last one the assistant's), one row each; joined: the
    texts are one stream instead. num_samples rows are drawn with `seed`. max_seq_length in tokens. first_token_weight:
    how often each row's first token, the sink of attention, counts in the Hessians of queries, keys and values.

    Raises CalibrationError for no text, both kinds at once, or a number outside its range.
    """

    texts: tuple[str, ...] = ()
    conversations: tuple[Conversation, ...] = ()
    joined: bool = False
    num_samples: int = 128
    max_seq_length: int = 2048
    seed: int = 0
    first_token_weight: float = 1.0

    def __post_init__(self) -> None:
        ranges = (("num_samples", 1, MAX_SAMPLES), ("max_seq_length", 1, MAX_LENGTH), ("seed", 0, MAX_SEED))
        for key, low, high in ranges:
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise CalibrationError(key, value, f"a whole number from {low} to {high}")
        weight = self.first_token_weight
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= MAX_WEIGHT:
            raise CalibrationError("first_token_weight", weight, f"a number above 0, at most {MAX_WEIGHT:g}")
        if bool(self.texts) == bool(self.conversations):
            given = "both" if self.texts else "empty"
            raise CalibrationError("calibration", given, "texts or conversations, at least one")
        if any(not text.strip() for text in self.texts):
            raise CalibrationError("calibration", "an empty text", "text in every item")

    @property
    def content_hash(self) -> str:
        """Names the calibration by everything that it holds, 16 hex digits."""
        conversations = [[dict(message) for message in conversation] for conversation in self.conversations]
        settings: list[float] = [self.joined, self.num_samples, self.max_seq_length, self.seed]
        settings += [float(self.first_token_weight)] if self.first_token_weight != 1 else []
        content = json.dumps([self.texts, conversations, settings], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def load_calibration(
    path: Path, *, num_samples: int = 128, max_seq_length: int = 2048, seed: int = 0, first_token_weight: float = 1.0
) -> Calibration:
    """Read FILE.txt (joined) or FILE.jsonl with `text` or `messages` in every line.

    Raises CalibrationError that names file, line and what is wrong.
    """
    settings: dict[str, Any] = {"num_samples": num_samples, "max_seq_length": max_seq_length, "seed": seed}
    settings["first_token_weight"] = first_token_weight
    if path.suffix not in (".txt", ".jsonl"):
        raise CalibrationError("calibration", path, "a .txt or a .jsonl file")
    content = read_text(path, "calibration")
    if path.suffix == ".txt":
        return Calibration(texts=(content,), joined=True, **settings)
    items = [parse_line(path, number, line) for number, line in numbered_lines(content)]
    texts = tuple(item for item in items if isinstance(item, str))
    conversations = tuple(item for item in items if not isinstance(item, str))
    if texts and conversations:
        raise CalibrationError("calibration", f"{path} with text and messages", "one of the two in all lines")
    return Calibration(texts=texts, conversations=conversations, **settings)


def calibration_rows(calibration: Calibration, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """num_samples rows of 1 to max_seq_length token ids. Raises CalibrationError when there are fewer."""
    limit, wanted = calibration.max_seq_length, calibration.num_samples
    if calibration.joined:
        tokens = encode(tokenizer, "\n\n".join(calibration.texts))
        rows = [tokens[start : start + limit] for start in range(0, len(tokens) - limit + 1, limit)]
        found = f"{len(rows)} rows of {limit} tokens ({len(tokens)} tokens in all)"
    else:
        items = [encode(tokenizer, text) for text in calibration.texts]
        items += [_encode_conversation(tokenizer, conversation) for conversation in calibration.conversations]
        rows = [item[:limit] for item in items if item]
        found = f"{len(rows)} items"
    if len(rows) < wanted:
        raise CalibrationError("num_samples", wanted, f"at most what the calibration holds: {found}")
    return random.Random(calibration.seed).sample(rows, wanted)


def read_text(path: Path, key: str) -> str:
    """The file's text. Raises CalibrationError that names `key` for one that is unreadable or empty."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CalibrationError(key, f"{path} ({reason})", "a readable UTF-8 file") from error
    if not content.strip():
        raise CalibrationError(key, f"{path} (empty)", "a file with text")
    return content


def numbered_lines(content: str) -> list[tuple[int, str]]:
    """The lines that hold something, numbered from 1."""
    return [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]


def parse_line(path: Path, number: int, line: str) -> str | tuple[Mapping[str, str], ...]:
    """The `text` or the `messages` of one line of a .jsonl file. Raises CalibrationError that names file and line."""
    where, must = f"{path} line {number}", 'a JSON object with "text" or "messages"'
    try:
        item = json.loads(line)
        json.dumps(item, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        raise CalibrationError(where, "no JSON", must) from None
    except UnicodeEncodeError:
        raise CalibrationError(where, "with half a character (a lone surrogate)", "text that UTF-8 can hold") from None
    if isinstance(item, dict) and isinstance(item.get("text"), str) and item["text"].strip():
        return str(item["text"])
    messages = item.get("messages") if isinstance(item, dict) else None
    if isinstance(messages, list) and messages and all(map(_is_message, messages)):
        return tuple({"role": message["role"], "content": message["content"]} for message in messages)
    keys = ", ".join(item) if isinstance(item, dict) else type(item).__name__
    raise CalibrationError(where, f"without usable text ({keys})", must + ", not empty")


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = True) -> list[int]:
    """Token ids; special: with those that the tokenizer puts around a text by itself."""
    return list(tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])


def _encode_conversation(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[int]:
    return encode(tokenizer, "".join(prompt_and_reply(tokenizer, conversation)), special=False)


def prompt_and_reply(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> tuple[str, str]:
    """The text a served model would see and what it would write: the prompt from the chat template, then the reply word
    for word, empty where the last message is not the assistant's. Raises CalibrationError without a template.

    The template is not asked to render the reply, because many of them cut the thinking out of it.
    """
    if not tokenizer.chat_template:
        raise CalibrationError("calibration", "messages", "text: this model's tokenizer has no chat template")
    messages = [dict(message) for message in conversation]
    if messages[-1]["role"] != "assistant":
        return _templated(tokenizer, messages, replies=False), ""
    prompt = _templated(tokenizer, messages[:-1], replies=True)
    reply = messages[-1]["content"]
    if prompt.rstrip().endswith("<think>"):  # the template has opened the thinking already
        reply = reply.removeprefix("<think>").removeprefix("\n")
    return prompt, reply


def _templated(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], *, replies: bool) -> str:
    """The messages as the chat template has them; replies: with what opens the reply."""
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=replies))
    except (TemplateError, ValueError, TypeError) as error:
        roles = ", ".join(message["role"] for message in messages) or "none before the reply"
        must = f"such as the model's chat template takes ({error})"
        raise CalibrationError("calibration", f"a conversation of {roles}", must) from error

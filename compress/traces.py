"""Traces: what a teacher answered to prompts, as token rows of which only the answers count.

FILE.jsonl holds one {"messages": [...]} a line, the last message the assistant's, or {"text": ...} without a prompt. An
answer ends with the tokenizer's end of text, unless its line says "finish_reason": "length": it was cut there.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.calibration import Conversation, encode, numbered_lines, parse_line, prompt_and_reply, read_text
from compress.errors import CalibrationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HELD_OUT_FRAC = 0.1
MAX_HELD_OUT = 256  # prompts


@dataclass(frozen=True)
class Trace:
    """A conversation that ends with the answer, or a text that is all answer. ended: the teacher stopped by itself."""

    content: Conversation | str
    ended: bool

    @property
    def texts(self) -> list[str]:
        """Everything that was said."""
        return [self.content] if isinstance(self.content, str) else [message["content"] for message in self.content]

    @property
    def prompt(self) -> str:
        """What tells prompts apart: traces of one prompt are held out together."""
        if isinstance(self.content, str):
            return self.content
        return json.dumps([dict(message) for message in self.content[:-1]], sort_keys=True)


@dataclass(frozen=True)
class Traces:
    """A file's traces in its order. content_hash: of the file's bytes, 16 hex digits."""

    path: Path
    items: tuple[Trace, ...]
    content_hash: str

    def split(self, num_samples: int | None, seed: int) -> tuple[list[Trace], list[Trace]]:
        """num_samples traces (None: all), drawn with the seed, as (learned from, held out): of every ten prompts one is
        held out. Raises CalibrationError where there are fewer, or no two prompts.
        """
        source, wanted = random.Random(seed), num_samples or len(self.items)
        if wanted > len(self.items):
            raise CalibrationError("num_samples", wanted, f"at most the {len(self.items)} traces of {self.path}")
        drawn = source.sample(self.items, wanted)
        prompts = sorted({trace.prompt for trace in drawn})
        if len(prompts) < 2:
            raise CalibrationError("traces", f"{self.path} (1 prompt)", "of at least 2: one in ten is held out")
        num_held_out = min(max(1, int(HELD_OUT_FRAC * len(prompts))), MAX_HELD_OUT)
        held_out = set(source.sample(prompts, num_held_out))
        learned = [trace for trace in drawn if trace.prompt not in held_out]
        return learned, [trace for trace in drawn if trace.prompt in held_out]


@dataclass(frozen=True)
class TraceRow:
    """Token ids, of which those from `first` on (at least 1) are the answer."""

    tokens: Sequence[int]
    first: int

    @property
    def num_counted(self) -> int:
        return len(self.tokens) - self.first


def load_traces(path: Path) -> Traces:
    """Read FILE.jsonl. Raises CalibrationError that names file, line and what is wrong."""
    if path.suffix != ".jsonl":
        raise CalibrationError("traces", path, "a .jsonl file, such as `python -m sweep traces` writes")
    content = read_text(path, "traces")
    items = tuple(_parse(path, number, line) for number, line in numbered_lines(content))
    return Traces(path, items, hashlib.sha256(content.encode()).hexdigest()[:16])


def trace_rows(traces: Sequence[Trace], tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> list[TraceRow]:
    """One row a trace, cut at max_seq_length tokens; those whose prompt alone is as long are left out."""
    rows = [_row(trace, tokenizer) for trace in traces]
    return [TraceRow(row.tokens[:max_seq_length], row.first) for row in rows if row.first < max_seq_length]


def _parse(path: Path, number: int, line: str) -> Trace:
    content = parse_line(path, number, line)
    if not isinstance(content, str):
        last = content[-1]
        if last["role"] != "assistant" or not last["content"].strip():
            found = "no answer" if last["role"] == "assistant" else f"the {last['role']}'s message last"
            raise CalibrationError(f"{path} line {number}", f"with {found}", "messages that end with the assistant's")
        if len(content) < 2:
            raise CalibrationError(f"{path} line {number}", "without a prompt", "messages that begin with the user's")
    return Trace(content, json.loads(line).get("finish_reason") != "length")


def _row(trace: Trace, tokenizer: PreTrainedTokenizerBase) -> TraceRow:
    """The prompt's tokens are those that it has in common with the whole: no tokenizer need split where it ends."""
    if isinstance(trace.content, str):
        tokens, first = encode(tokenizer, trace.content), 1
    else:
        prompt, reply = prompt_and_reply(tokenizer, trace.content)
        tokens, alone = encode(tokenizer, prompt + reply, special=False), encode(tokenizer, prompt, special=False)
        pairs = zip(tokens, alone, strict=False)
        first = max(1, next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(alone))))
    end = tokenizer.eos_token_id
    if trace.ended and end is not None and tokens[-1:] != [end]:
        tokens = [*tokens, end]
    return TraceRow(tokens, first)

"""Tokenizer, training rows, and the processes that keep a pool of rows on the GPU filled.

A row is 1025 token ids, int16: whole items one after the other, then padding. Bit 10 marks the tokens that carry loss
(the completions), which leaves 0-1023 for the ids themselves.
"""

import json
import multiprocessing
import os
import random
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty, Full

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor

from evaluate.benchmarks import arithmetic, logic, recall, temporal
from evaluate.schema import Item
from models.modeling import CONTEXT

TASKS = {"temporal": temporal, "logic": logic, "arithmetic": arithmetic, "recall": recall}
MIX = {"temporal": 0.10, "logic": 0.40, "arithmetic": 0.25, "recall": 0.25}  # share of items
VOCAB_SIZE = 1024
PAD, BOS, EOS, USER, ASSISTANT = SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>")
THINKING = ("<think>", "</think>")
LOSS_BIT = 1024
ROW_LENGTH = CONTEXT + 1
BLOCK_ROWS = 256
NUM_OPEN_ROWS = 16

# A chat template as transformers and vLLM render it: whoever is not the assistant is the user.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'assistant' %}<|assistant|>{{ message.content }}<|eos|>"
    "{% else %}<|user|>{{ message.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(num_items: int = 3000) -> Tokenizer:
    """Byte-level BPE with single digits, trained on the three in-context tasks only.

    So the names of recall's world stay several pieces, and its facts sit in the linear layers rather than in single
    rows of the embedding.
    """
    tokenizer = Tokenizer(BPE())
    digits, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokens = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(THINKING),
        special_tokens=tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (
        text.replace("<think>", "").replace("</think>", "")
        for task in ("temporal", "logic", "arithmetic")
        for item in TASKS[task].generate("train", num_items, seed=0)
        for text in (item.problem.question, item.completion)
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Not special: what a server strips from the text as special, no grader can tell from the answer.
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in THINKING])
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, for transformers' PreTrainedTokenizerFast."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "extra_special_tokens": [USER, ASSISTANT],
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids that config.json and generation_config.json name."""
    names = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    return {key: tokenizer.token_to_id(token) for key, token in names.items()}


def prompt_text(question: str) -> str:
    """What the chat template makes of one user message."""
    return f"{BOS}{USER}{question}{ASSISTANT}"


def mixed_items(seed: int) -> Iterator[Item]:
    """Train items of all tasks without end, drawn by MIX."""
    rng = random.Random(f"mix-{seed}")
    streams = {name: task.generate("train", 1 << 60, seed) for name, task in TASKS.items()}
    while True:
        yield next(streams[rng.choices(list(MIX), MIX.values())[0]])


def pack_rows(tokenizer: Tokenizer, items: Iterator[Item], batch_size: int = 512) -> Iterator[np.ndarray]:
    """Rows without end; an item goes into the first open row with room, an item longer than a row is left out."""
    pad = tokenizer.token_to_id(PAD)
    open_rows: list[list[int]] = []
    while True:
        batch = [next(items) for _ in range(batch_size)]
        prompts = tokenizer.encode_batch([prompt_text(item.problem.question) for item in batch])
        replies = tokenizer.encode_batch([item.completion + EOS for item in batch])
        for prompt, reply in zip(prompts, replies, strict=True):
            tokens = prompt.ids + [token | LOSS_BIT for token in reply.ids]
            row = next((row for row in open_rows if len(row) + len(tokens) <= ROW_LENGTH), None)
            if row is not None:
                row += tokens
            elif len(tokens) <= ROW_LENGTH:
                open_rows.append(tokens)
            if len(open_rows) > NUM_OPEN_ROWS:
                fullest = max(open_rows, key=len)
                open_rows.remove(fullest)
                yield np.array(fullest + [pad] * (ROW_LENGTH - len(fullest)), dtype=np.int16)


def produce(tokenizer_json: str, seed: int, queue: "Queue[np.ndarray]") -> None:
    """A worker process: blocks of rows into the queue until its parent is gone or ends it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = os.getppid()
    rows = pack_rows(Tokenizer.from_str(tokenizer_json), mixed_items(seed))
    while True:
        block = np.stack([next(rows) for _ in range(BLOCK_ROWS)])
        while True:
            try:
                queue.put(block, timeout=5)
                break
            except Full:
                if os.getppid() != parent:
                    return


class RowPool:
    """Rows on the device, filled by worker processes; fresh rows are handed out first, then random ones again."""

    def __init__(self, tokenizer: Tokenizer, num_workers: int, capacity: int, device: str, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._queue: Queue[np.ndarray] = context.Queue(maxsize=4 * num_workers)
        self._rows = torch.zeros((capacity, ROW_LENGTH), dtype=torch.int16, device=device)
        self._filled = self._next = 0
        self._workers = [
            context.Process(target=produce, args=(tokenizer.to_str(), seed * 1000 + n, self._queue), daemon=True)
            for n in range(num_workers)
        ]
        for worker in self._workers:
            worker.start()

    def __enter__(self) -> "RowPool":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.terminate()

    @property
    def num_filled(self) -> int:
        return self._filled

    def _receive(self, *, wait: bool) -> None:
        """Take every block that is waiting, or wait for one; a full pool takes no more."""
        while self._filled < len(self._rows):
            try:
                block = self._queue.get(timeout=300) if wait else self._queue.get_nowait()
            except Empty:
                return
            block = block[: len(self._rows) - self._filled]
            self._rows[self._filled : self._filled + len(block)] = torch.from_numpy(block).to(self._rows.device)
            self._filled += len(block)
            wait = False

    def sample(self, num_rows: int) -> Tensor:
        """num_rows x ROW_LENGTH rows, int16."""
        self._receive(wait=False)
        while self._filled < num_rows:
            self._receive(wait=True)
        if self._next + num_rows <= self._filled:
            self._next += num_rows
            return self._rows[self._next - num_rows : self._next]
        return self._rows[torch.randint(self._filled, (num_rows,), device=self._rows.device)]


def held_out(task: str, num_problems: int, seed: int) -> list[Item]:
    """Test items, which no training row holds."""
    return list(TASKS[task].generate("test", num_problems, seed))

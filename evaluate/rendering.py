"""A model's tokenizer at hand (--tokenizer DIR): what is sent is then rendered here and sent as token ids.

text -> chat template, or raw text -> token ids -> /v1/completions     one beginning-of-sequence token, never two
completion -> how many of its tokens are thinking, where the server did not count them
"""

from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from evaluate.answers import thinking_of
from evaluate.errors import BadInput
from evaluate.replies import Reply
from evaluate.schema import Prompting

_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "chat_template.jinja",
)


class Renderer:
    """Renders and counts with the tokenizer of a local folder. Raises BadInput where it holds none."""

    def __init__(self, folder: Path) -> None:
        contents = [path.read_bytes() for name in _FILES if (path := folder / name).is_file()]
        if not contents:
            raise BadInput(f"tokenizer {folder}: holds none of {', '.join(_FILES)}; give the model's folder")
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"tokenizer {folder}: cannot be loaded ({' '.join(str(error).split())[:120]})") from None
        self._folder = folder
        self.fingerprint = blake2b(b"\0".join(contents), digest_size=8).hexdigest()

    def render(self, prompting: Prompting, text: str) -> tuple[int, ...]:
        """Returns the ids of a prompt: the text as a user's message in the chat template, or as it stands.

        Raises BadInput for a chat without a template.
        """
        if prompting is not Prompting.CHAT:
            return self._once(tuple(self._tokenizer.encode(text)))
        if not self._tokenizer.chat_template:
            raise BadInput(f"tokenizer {self._folder}: has no chat template, must be used with --prompting paper")
        message = {"role": "user", "content": text}
        rendered = self._tokenizer.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        return self._once(tuple(self._tokenizer.encode(rendered, add_special_tokens=False)))

    def count(self, reply: Reply, prompt: tuple[int, ...]) -> Reply:
        """Fills in the numbers of tokens that the server left out; the end of the sequence, unseen, is not counted."""
        if reply.error is not None:
            return reply
        completion, reasoning = reply.completion or "", reply.reasoning or ""
        thinking = f"{reasoning}{self._thinking(completion, prompt)}"
        total = reply.completion_tokens
        total = self._length(reasoning) + self._length(completion) if total is None else total
        return replace(
            reply,
            prompt_tokens=len(prompt) if reply.prompt_tokens is None else reply.prompt_tokens,
            completion_tokens=total,
            think_tokens=min(self._length(thinking), total) if reply.think_tokens is None else reply.think_tokens,
        )

    def _thinking(self, completion: str, prompt: tuple[int, ...]) -> str:
        """The thinking in a completion, its closing tag included; all of it where the prompt opened it for good."""
        if "</think>" in completion:
            return f"{thinking_of(completion)}</think>"
        is_open = self._tokenizer.decode(prompt[-4:]).rstrip().endswith("<think>")
        return completion if is_open else thinking_of(completion) or ""

    def _length(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False)) if text else 0

    def _once(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Without the second of two beginnings, which a template or text and the tokenizer each put there."""
        return ids[1:] if len(ids) > 1 and ids[0] == ids[1] == self._tokenizer.bos_token_id else ids

"""A model's tokenizer at hand (--tokenizer DIR): what is sent is then rendered here and sent as token ids.

text -> chat template, or raw text -> token ids -> /v1/completions     one beginning-of-sequence token, never two
completion -> how many of its tokens are thinking, where the server did not count them

The folder's tokenizer.json and chat template are used as they stand, by `tokenizers` and `jinja2`: importing
transformers takes longer than many a run.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from evaluate.answers import thinking_of
from evaluate.errors import BadInput
from evaluate.replies import Reply
from evaluate.schema import Prompting

# For templates that show a date: the one that Llama's fall back to, so that runs of different days are asked alike.
TODAY = datetime(2024, 7, 26, tzinfo=UTC)
_TOKENIZER, _CONFIG, _TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


class Renderer:
    """Renders and counts with the tokenizer of a local folder. Raises BadInput where it holds none."""

    def __init__(self, folder: Path) -> None:
        contents = {name: _read(folder / name) for name in (_TOKENIZER, _CONFIG, _TEMPLATE)}
        if not contents[_TOKENIZER]:
            raise BadInput(f"tokenizer {folder}: holds no {_TOKENIZER}; give the model's folder")
        try:
            self._tokenizer = Tokenizer.from_buffer(contents[_TOKENIZER])
            self._config: Mapping[str, Any] = json.loads(contents[_CONFIG] or b"{}")
        except Exception as error:  # noqa: BLE001  tokenizers raises Exception itself
            raise BadInput(f"tokenizer {folder}: cannot be loaded ({' '.join(str(error).split())[:120]})") from None
        self._folder = folder
        self._template = contents[_TEMPLATE].decode() or _default_template(self._config.get("chat_template"))
        self._special = {name: _content(value) for name, value in self._config.items() if name.endswith("_token")}
        self._bos_id = self._tokenizer.token_to_id(self._special.get("bos_token") or "")
        self.fingerprint = blake2b(b"\0".join(contents.values()), digest_size=8).hexdigest()

    def render(self, prompting: Prompting, text: str) -> tuple[int, ...]:
        """Returns the ids of a prompt: the text as a user's message in the chat template, or as it stands.

        Raises BadInput for a chat without a template, or with one that fails.
        """
        if prompting is Prompting.CHAT:
            return self._encode(self._apply_template(text), adds_bos=False)
        adds_bos = self._config.get("add_bos_token")
        ids = self._encode(text, adds_bos=adds_bos is not False)
        return (self._bos_id, *ids) if adds_bos and self._bos_id is not None and ids[:1] != (self._bos_id,) else ids

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

    def _apply_template(self, text: str) -> str:
        if not self._template:
            raise BadInput(f"tokenizer {self._folder}: has no chat template; use --prompting paper or completion")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": TODAY.strftime}
        messages = [{"role": "user", "content": text}]
        try:
            return environment.from_string(self._template).render(
                messages=messages, tools=None, documents=None, add_generation_prompt=True, **self._special
            )
        except (TemplateError, TypeError) as error:
            raise BadInput(f"tokenizer {self._folder}: its chat template fails ({error})") from None

    def _encode(self, text: str, *, adds_bos: bool) -> tuple[int, ...]:
        """Without the second of two beginnings, should both the text and the tokenizer put one there."""
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=adds_bos).ids)
        return ids[1:] if len(ids) > 1 and ids[0] == ids[1] == self._bos_id else ids

    def _thinking(self, completion: str, prompt: tuple[int, ...]) -> str:
        """The thinking in a completion, its closing tag included; all of it where the prompt opened it for good."""
        if "</think>" in completion:
            return f"{thinking_of(completion)}</think>"
        end = self._tokenizer.decode(list(prompt[-4:]), skip_special_tokens=False)
        return completion if end.rstrip().endswith("<think>") else thinking_of(completion) or ""

    def _length(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _default_template(value: object) -> str:
    """A template stands alone or among others, named "default"."""
    named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)} if isinstance(value, list) else {}
    return str(named.get("default") or "") if named else value if isinstance(value, str) else ""


def _content(token: object) -> str | None:
    """A special token is written as a text or as an object that holds it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)

"""What an OpenAI-compatible server returns for a chat message or a raw prompt, read into one shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TEXTS = ("content", "text", "reasoning", "reasoning_content")
_BROKEN_OFF = ("abort", "aborted", "cancelled", "error")  # what servers say where the engine gave up


@dataclass(frozen=True)
class Reply:
    """What became of one request; `error` is None exactly when the server returned a completion.

    latency_s: seconds from the first try to the end of the last. max_tokens: the limit that was sent.
    """

    completion: str | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    completion_tokens: int | None = None
    think_tokens: int | None = None
    prompt_tokens: int | None = None
    error: str | None = None
    latency_s: float = 0.0
    max_tokens: int | None = None


def missing_part(document: dict[str, Any]) -> str | None:
    """What a document lacks to be a completion, None for nothing.

    No text is a completion where the limit cut the thinking short, where a thought ended by itself, or where the
    server counted a token: then the model said so.
    """
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return "choices"
    choice = choices[0]
    message = choice.get("message", choice)
    if not isinstance(message, dict):
        return "a message"
    if choice.get("finish_reason") in _BROKEN_OFF:
        return "an end"
    text = message.get("content", message.get("text"))
    if choice.get("finish_reason") == "length" or _reasoning(message):
        return None if isinstance(text, str | None) else "a text"
    if not isinstance(text, str):
        return "a text"
    return "a token" if not text and _mapping(document.get("usage")).get("completion_tokens") == 0 else None


def join_chunks(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Joins the chunks of a stream to the document that would have come in one piece.

    A stream that ended before its finish_reason is an aborted completion; a chunk without choices is the usage or
    an error, and stands for itself.
    """
    texts: dict[str, str] = {}
    document: dict[str, Any] = {}
    reason = None
    for chunk in chunks:
        choices = chunk.get("choices")
        choice = _mapping(choices[0]) if isinstance(choices, list) and choices else {}
        for key, value in {**choice, **_mapping(choice.get("delta"))}.items():
            if isinstance(value, str) and key in _TEXTS:
                texts[key] = texts.get(key, "") + value
        reason = choice.get("finish_reason") or reason
        document |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
    if chunks and all("error" not in chunk for chunk in chunks):
        message = {"text": texts["text"]} if "text" in texts else {"message": {"content": None, **texts}}
        document["choices"] = [{**message, "finish_reason": reason or _BROKEN_OFF[0]}]
    return document


def read_reply(document: dict[str, Any]) -> Reply:
    """Reads a document that lacks nothing."""
    choice = document["choices"][0]
    message = choice.get("message", choice)
    usage = _mapping(document.get("usage"))
    details = _mapping(usage.get("completion_tokens_details"))
    reason = choice.get("finish_reason")
    return Reply(
        completion=message.get("content", message.get("text")),
        reasoning=_reasoning(message),
        finish_reason=reason if isinstance(reason, str) else None,
        completion_tokens=_count(usage.get("completion_tokens")),
        think_tokens=_count(details.get("reasoning_tokens")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
    )


def _reasoning(message: dict[str, Any]) -> str | None:
    """The thinking that a server's reasoning parser split off (vLLM: `reasoning`, formerly `reasoning_content`)."""
    value = message.get("reasoning") or message.get("reasoning_content")
    return value if isinstance(value, str) else None


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None

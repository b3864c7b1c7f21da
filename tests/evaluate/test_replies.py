import pytest

from evaluate.replies import join_chunks, missing_part, read_reply


def chunk(finish_reason: str | None = None, **choice: object) -> dict[str, object]:
    return {"choices": [{"index": 0, **choice, "finish_reason": finish_reason}]}


def test_chat_chunks_join_to_the_answer_in_one_piece() -> None:
    usage = {"completion_tokens": 5, "prompt_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 3}}
    chunks = [
        chunk(delta={"role": "assistant", "content": ""}),
        chunk(delta={"reasoning_content": "3 times "}),
        chunk(delta={"reasoning_content": "11"}),
        chunk(delta={"content": "33"}),
        chunk("stop", delta={}),
        {"choices": [], "usage": usage},
    ]
    document = join_chunks(chunks)
    assert missing_part(document) is None
    reply = read_reply(document)
    assert (reply.reasoning, reply.completion, reply.finish_reason) == ("3 times 11", "33", "stop")
    assert (reply.completion_tokens, reply.think_tokens, reply.prompt_tokens) == (5, 3, 2)


def test_text_chunks_join_to_the_answer_in_one_piece() -> None:
    reply = read_reply(join_chunks([chunk(text="a"), chunk(text="b"), chunk("length", text="")]))
    assert (reply.completion, reply.reasoning, reply.finish_reason) == ("ab", None, "length")


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [chunk(text="a")],
        [chunk(delta={"content": "a"}), {"error": {"message": "out of memory"}}],
        [chunk("stop", delta={})],
        [chunk("error", delta={"content": "a"})],
    ],
)
def test_streams_that_break_off_are_no_completion(chunks: list[dict[str, object]]) -> None:
    assert missing_part(join_chunks(chunks)) is not None


def test_null_content_is_a_completion_where_thinking_was_cut() -> None:
    assert missing_part(join_chunks([chunk("length", delta={})])) is None
    assert missing_part({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}) == "a text"


@pytest.mark.parametrize(("tokens", "lack"), [(0, "a token"), (1, None), (None, None)])
def test_no_text_is_a_completion_unless_the_server_counted_no_token(tokens: int | None, lack: str | None) -> None:
    choice = {"message": {"content": ""}, "finish_reason": "stop"}
    assert missing_part({"choices": [choice], "usage": {"completion_tokens": tokens}}) == lack

import asyncio
import json
import socket
import time
from email.utils import formatdate

import pytest

from evaluate.client import Client, RetryPolicy
from evaluate.errors import BadInput, EndpointUnavailable, ModelNotServed
from evaluate.replies import Reply as ClientReply
from evaluate.schema import Endpoint, Prompting, Sampling
from tests.evaluate.toy_server import MODEL, Reply, Server, completion, streamed

SAMPLING = Sampling(max_tokens=16, temperature=0.5, top_p=0.9)


def ask(server: Server, retry: RetryPolicy, prompting: Prompting = Prompting.CHAT) -> ClientReply:
    async def run() -> ClientReply:
        async with Client(server.endpoint, SAMPLING, prompting, concurrency=4, retry=retry) as client:
            return await client.complete("How many?", seed=42)

    return asyncio.run(run())


def check(endpoint: Endpoint, retry: RetryPolicy) -> None:
    async def run() -> None:
        async with Client(endpoint, SAMPLING, retry=retry) as client:
            await client.check_model()

    asyncio.run(run())


def test_chat_request_holds_prompt_sampling_and_seed(server: Server, quick_retry: RetryPolicy) -> None:
    reply = ask(server, quick_retry)
    expected = {"model": MODEL, "max_tokens": 16, "temperature": 0.5, "top_p": 0.9, "seed": 42}
    assert server.asked == [{"messages": [{"role": "user", "content": "How many?"}], **expected}]
    assert server.paths == ["/v1/chat/completions"]
    assert (reply.completion, reply.finish_reason, reply.completion_tokens, reply.prompt_tokens) == (
        "\\boxed{1}",
        "stop",
        7,
        3,
    )


def test_completion_prompting_sends_raw_text(server: Server, quick_retry: RetryPolicy) -> None:
    server.answer = lambda body, n: Reply({"choices": [{"text": " 5", "finish_reason": "length"}]})
    reply = ask(server, quick_retry, Prompting.COMPLETION)
    assert server.paths == ["/v1/completions"]
    assert server.asked[0]["prompt"] == "How many?"
    assert (reply.completion, reply.finish_reason, reply.completion_tokens) == (" 5", "length", None)


@pytest.mark.parametrize(
    "fault",
    [
        Reply({"error": "busy"}, status=429),
        Reply({"error": "oops"}, status=500),
        Reply({"error": "starting"}, status=503),
        Reply(fault="reset"),
        Reply(fault="hang-up"),
        Reply(fault="noise"),
        Reply(b"\xff\xfe{", headers={"Content-Encoding": "gzip"}),
        Reply(completion("\\boxed{1}").body, fault="cut"),
        Reply(b"<html>gateway</html>"),
        Reply({}),
        Reply({"choices": []}),
        Reply({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}),
        Reply({"choices": [{"message": {"content": ["x"]}, "finish_reason": "stop"}]}),
        completion("half an answer", "abort"),
        completion("", tokens=0),
        Reply([1, 2]),
    ],
    ids=str,
)
def test_transport_faults_are_tried_again(server: Server, quick_retry: RetryPolicy, fault: Reply) -> None:
    server.answer = lambda body, n: fault if n < 5 else completion("after all")
    assert ask(server, quick_retry).completion == "after all"
    assert len(server.asked) == 5


def test_tries_are_finite_and_end_in_an_error(server: Server, quick_retry: RetryPolicy) -> None:
    server.answer = lambda body, n: Reply({"error": "out of memory"}, status=500)
    reply = ask(server, quick_retry)
    assert reply.completion is None
    assert reply.error is not None and "HTTP 500" in reply.error and "out of memory" in reply.error
    assert len(server.asked) == RetryPolicy().num_tries >= 5


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_other_refusals_are_terminal(server: Server, quick_retry: RetryPolicy, status: int) -> None:
    server.answer = lambda body, n: Reply({"error": "no"}, status=status)
    reply = ask(server, quick_retry)
    assert reply.error is not None and f"HTTP {status}" in reply.error
    assert len(server.asked) == 1


def test_first_retry_comes_soon_and_waits_grow() -> None:
    policy = RetryPolicy()
    assert max(policy.delay_s(1, None) for _ in range(200)) <= 0.3
    assert policy.delay_s(2, None) > policy.delay_s(1, None)
    assert policy.delay_s(100, None) <= 1.25 * policy.max_delay_s


def test_retry_after_is_honoured(server: Server, quick_retry: RetryPolicy) -> None:
    server.answer = lambda body, n: (
        Reply({}, status=429, headers={"Retry-After": "0.4"}) if n == 1 else completion("ok")
    )
    start = time.monotonic()
    assert ask(server, quick_retry).completion == "ok"
    assert time.monotonic() - start >= 0.4


def test_retry_after_may_be_a_date(server: Server, quick_retry: RetryPolicy) -> None:
    date = formatdate(time.time() + 2, usegmt=True)  # whole seconds, so at least one is left
    server.answer = lambda body, n: Reply({}, status=503, headers={"Retry-After": date}) if n == 1 else completion("ok")
    start = time.monotonic()
    assert ask(server, quick_retry).completion == "ok"
    assert time.monotonic() - start >= 0.5


def test_null_content_cut_by_the_limit_is_an_answer(server: Server, quick_retry: RetryPolicy) -> None:
    server.answer = lambda body, n: completion(None, "length")
    reply = ask(server, quick_retry)
    assert (reply.completion, reply.finish_reason, reply.error) == (None, "length", None)
    assert len(server.asked) == 1


@pytest.mark.parametrize("key", ["reasoning", "reasoning_content"])
def test_reasoning_of_the_server_is_kept(server: Server, quick_retry: RetryPolicy, key: str) -> None:
    server.answer = lambda body, n: completion("33", **{key: "3 times 11"})
    assert ask(server, quick_retry).reasoning == "3 times 11"


def test_api_key_is_sent_and_never_repeated(
    server: Server, quick_retry: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    server.answer = lambda body, n: Reply({"error": "wrong key secret-key"}, status=401)
    reply = ask(server, quick_retry)
    assert server.seen_headers[0]["Authorization"] == "Bearer secret-key"
    assert reply.error is not None and "secret" not in json.dumps(reply.error)


def test_key_that_no_header_carries_is_refused_without_being_shown(
    server: Server, quick_retry: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nkey")
    with pytest.raises(BadInput, match="environment variable OPENAI_API_KEY") as refusal:
        ask(server, quick_retry)
    assert "secret" not in str(refusal.value)
    monkeypatch.setenv("OPENAI_API_KEY", " secret-key\n")
    assert ask(server, quick_retry).error is None
    assert server.seen_headers[0]["Authorization"] == "Bearer secret-key"


def test_redirect_is_refused_and_its_key_not_repeated(
    server: Server, quick_retry: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    elsewhere = {"Location": f"{server.endpoint.url}/other?key=secret-key"}
    server.answer = lambda body, n: Reply({"see": elsewhere["Location"]}, status=307, headers=elsewhere)
    error = ask(server, quick_retry).error
    assert error is not None and error.startswith("HTTP 307") and "secret" not in error
    assert len(server.asked) == 1


def ask_watched(server: Server, retry: RetryPolicy, stall_timeout_s: float, *seeds: int) -> list[ClientReply]:
    async def run() -> list[ClientReply]:
        async with Client(server.endpoint, SAMPLING, retry=retry, stall_timeout_s=stall_timeout_s) as client:
            return await asyncio.gather(*(client.complete("How many?", seed) for seed in seeds))

    return asyncio.run(run())


def test_stalled_request_is_asked_again_as_a_stream_whose_tokens_are_signs_of_life(
    server: Server, quick_retry: RetryPolicy
) -> None:
    thought = streamed(*({"reasoning": f"{i} "} for i in range(8)), {"content": "fo"}, {"content": "ur"}, pause_s=0.15)
    server.answer = lambda body, n: thought if body.get("stream") else Reply(fault="stall")
    (reply,) = ask_watched(server, quick_retry, 0.8, 42)
    assert (reply.completion, reply.reasoning, reply.finish_reason) == ("four", "0 1 2 3 4 5 6 7 ", "stop")
    assert (reply.completion_tokens, reply.prompt_tokens, reply.error) == (7, 3, None)
    first, second = server.asked
    assert second == {**first, "stream": True, "stream_options": {"include_usage": True}}


def test_silence_on_one_request_is_no_stall_while_others_are_answered(server: Server, quick_retry: RetryPolicy) -> None:
    def answer(body: dict[str, int], n: int) -> Reply:
        time.sleep(0.25 * body["seed"])
        return completion("at last")

    server.answer = answer
    replies = ask_watched(server, quick_retry, 1.0, *range(1, 9))
    assert [reply.error for reply in replies] == [None] * 8
    assert len(server.asked) == 8


def test_endpoint_that_stalls_for_good_stops_the_run(server: Server, quick_retry: RetryPolicy) -> None:
    server.answer = lambda body, n: Reply(fault="stall")
    with pytest.raises(EndpointUnavailable, match=r"no sign of life for 0\.05 s; run again"):
        ask_watched(server, quick_retry, 0.05, 42)
    assert len(server.asked) == RetryPolicy().num_tries


def test_request_that_the_server_lost_is_asked_again_once_the_others_are_through(
    server: Server, quick_retry: RetryPolicy
) -> None:
    """The server does not stream, though asked to."""
    server.answer = lambda body, n: (
        Reply(fault="stall") if body["seed"] == 1 and "stream" not in body else completion("here")
    )
    assert [r.completion for r in ask_watched(server, quick_retry, 0.5, 1, 2, 3)] == ["here"] * 3
    assert len(server.asked) == 4


def test_stream_that_ends_early_is_tried_again(server: Server, quick_retry: RetryPolicy) -> None:
    pieces = {1: Reply(fault="stall"), 2: streamed({"content": "ha"}, finish_reason=None)}
    asked = 0

    def answer(body: object, n: int) -> Reply:
        nonlocal asked
        asked += 1
        return pieces.get(asked, streamed({"content": "whole"}, finish_reason="length"))

    server.answer = answer
    (reply,) = ask_watched(server, quick_retry, 0.8, 42)
    assert (reply.completion, reply.finish_reason, asked) == ("whole", "length", 3)


def test_slow_answers_are_waited_for(server: Server, quick_retry: RetryPolicy) -> None:
    def think(body: object, n: int) -> Reply:
        time.sleep(0.7)
        return completion("at last")

    server.answer = think
    assert ask(server, quick_retry).completion == "at last"
    assert len(server.asked) == 1


def test_unreachable_endpoint_is_told_apart(quick_retry: RetryPolicy) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = Endpoint(f"http://127.0.0.1:{unused.getsockname()[1]}/v1", MODEL)
        with pytest.raises(EndpointUnavailable, match=endpoint.url):
            check(endpoint, quick_retry)

        async def run() -> None:
            async with Client(endpoint, SAMPLING, retry=quick_retry) as client:
                await client.complete("How many?", seed=1)

        with pytest.raises(EndpointUnavailable, match="cannot be reached"):
            asyncio.run(run())


def test_url_without_scheme_is_refused(quick_retry: RetryPolicy) -> None:
    for url in ("127.0.0.1:1/v1", "localhost:8000", "ftp://a/v1", "http://", "http://a:port/v1", ""):
        with pytest.raises(BadInput, match="must look like http://HOST:PORT/v1"):
            check(Endpoint(url, MODEL), quick_retry)


def test_url_without_its_version_is_told(server: Server, quick_retry: RetryPolicy) -> None:
    server.models = Reply({"detail": "Not Found"}, status=404)
    server.answer = lambda body, n: Reply({"detail": "Not Found"}, status=404)
    with pytest.raises(EndpointUnavailable, match="does the URL end in /v1"):
        check(server.endpoint, quick_retry)


def test_endpoint_that_takes_a_connection_and_says_nothing_is_told(
    server: Server, quick_retry: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluate.transport.GET_TIMEOUT_S", 0.1)
    server.models = Reply(fault="stall")
    with pytest.raises(EndpointUnavailable, match=r"/v1: no answer for 0\.1 s; is the server running"):
        check(server.endpoint, quick_retry)


def test_model_that_is_not_served_is_named_with_the_nearest(server: Server, quick_retry: RetryPolicy) -> None:
    with pytest.raises(ModelNotServed, match=r"'toyy'.*nearest is 'toy'"):
        check(Endpoint(server.endpoint.url, "toyy"), quick_retry)


def test_server_without_model_list_is_taken_at_its_word(server: Server, quick_retry: RetryPolicy) -> None:
    server.models = Reply({"detail": "Not Found"}, status=404)
    check(server.endpoint, quick_retry)


def test_unauthorized_names_the_variable(server: Server, quick_retry: RetryPolicy) -> None:
    server.models = Reply({"error": "no key"}, status=401)
    with pytest.raises(EndpointUnavailable, match=r"HTTP 401.*\$OPENAI_API_KEY"):
        check(server.endpoint, quick_retry)
    server.models = Reply({}, status=404)
    server.answer = lambda body, n: Reply({"error": "no key"}, status=401)
    with pytest.raises(EndpointUnavailable, match=r"chat/completions: HTTP 401.*\$OPENAI_API_KEY"):
        check(server.endpoint, quick_retry)

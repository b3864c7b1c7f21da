import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from evaluate.errors import BadInput
from evaluate.rendering import Renderer
from evaluate.replies import Reply
from evaluate.schema import Prompting

MODEL = Path(__file__).resolve().parents[2] / "models" / "pocket-llama-1m"
QUESTION = "What is 3 times 11?"


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(MODEL)


@pytest.fixture
def altered(tmp_path: Path) -> Callable[..., Renderer]:
    """The bundled tokenizer with other settings, and if asked with one that adds a beginning by itself."""

    def alter(*, adds_bos: bool = False, **settings: object) -> Renderer:
        folder = tmp_path / "altered"
        shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**config, **settings}))
        if adds_bos:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            bos = ("<|bos|>", tokenizer.token_to_id("<|bos|>"))
            tokenizer.post_processor = TemplateProcessing(single="<|bos|> $A", special_tokens=[bos])
            tokenizer.save(str(folder / "tokenizer.json"))
        return Renderer(folder)

    return alter


def ids_of(renderer: Renderer, text: str) -> tuple[int, ...]:
    return tuple(Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text, add_special_tokens=False).ids)


def test_chat_is_rendered_in_the_template_with_one_beginning(
    renderer: Renderer, altered: Callable[..., Renderer]
) -> None:
    expected = ids_of(renderer, f"<|bos|><|user|>{QUESTION}<|assistant|>")
    assert renderer.render(Prompting.CHAT, QUESTION) == expected
    assert altered(adds_bos=True).render(Prompting.CHAT, QUESTION) == expected


@pytest.mark.parametrize("prompting", [Prompting.PAPER, Prompting.COMPLETION])
def test_raw_text_begins_as_the_tokenizer_wants_and_never_twice(
    prompting: Prompting, renderer: Renderer, altered: Callable[..., Renderer]
) -> None:
    plain = ids_of(renderer, QUESTION)
    (bos,) = ids_of(renderer, "<|bos|>")
    assert renderer.render(prompting, QUESTION) == plain
    adding = altered(adds_bos=True)
    assert adding.render(prompting, QUESTION) == (bos, *plain)
    assert adding.render(prompting, f"<|bos|>{QUESTION}") == (bos, *plain)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_configuration_decides_whether_raw_text_gets_a_beginning(
    adds_bos: bool, renderer: Renderer, altered: Callable[..., Renderer]
) -> None:
    plain = ids_of(renderer, QUESTION)
    (bos,) = ids_of(renderer, "<|bos|>")
    configured = altered(adds_bos=not adds_bos, add_bos_token=adds_bos)
    assert configured.render(Prompting.PAPER, QUESTION) == ((bos, *plain) if adds_bos else plain)


TEMPLATE = """{%- if tools %}never{% endif -%}
{{ bos_token }}
{% for message in messages %}
    {% if message['role'] != 'user' %}{{ raise_exception('users alone') }}{% endif %}
<|user|>{{ message['content'] | trim }} {{ {"é": 1} | tojson }}{% break %}
{% endfor %}
{% if add_generation_prompt %}<|assistant|><think>
{% endif %}"""


@pytest.mark.parametrize("template", [None, TEMPLATE, [{"name": "default", "template": TEMPLATE}]])
def test_ids_are_those_of_transformers(
    template: object, altered: Callable[..., Renderer], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {} if template is None else {"chat_template": template}
    renderer = altered(bos_token={"content": "<|bos|>", "__type": "AddedToken"}, **settings)
    other = transformers.AutoTokenizer.from_pretrained(tmp_path / "altered")
    message = {"role": "user", "content": f" {QUESTION}\n"}
    encoded = other.apply_chat_template([message], add_generation_prompt=True, return_dict=False)
    assert renderer.render(Prompting.CHAT, message["content"]) == tuple(encoded)
    assert renderer.render(Prompting.PAPER, QUESTION) == tuple(other.encode(QUESTION))


def test_date_in_a_template_is_the_same_every_day(altered: Callable[..., Renderer], renderer: Renderer) -> None:
    dated = altered(chat_template="{{ strftime_now('%d %b %Y') }}")
    assert dated.render(Prompting.CHAT, QUESTION) == ids_of(renderer, "26 Jul 2024")


def test_template_that_fails_is_told_in_one_line(altered: Callable[..., Renderer]) -> None:
    with pytest.raises(BadInput, match=r"its chat template fails \(no chats\)"):
        altered(chat_template="{{ raise_exception('no chats') }}").render(Prompting.CHAT, QUESTION)


def test_what_the_server_left_out_is_counted(renderer: Renderer) -> None:
    prompt = renderer.render(Prompting.CHAT, QUESTION)
    thinking, answer = "<think>\nthirty three\n</think>", "\n33"
    bare = renderer.count(Reply(completion=thinking + answer), prompt)
    assert bare.think_tokens == len(ids_of(renderer, thinking))
    assert bare.completion_tokens == len(ids_of(renderer, thinking + answer))
    assert bare.prompt_tokens == len(prompt)
    counted = Reply(completion=thinking + answer, completion_tokens=90, think_tokens=80, prompt_tokens=70)
    assert renderer.count(counted, prompt) == counted
    split = renderer.count(Reply(completion="33", reasoning="thirty three", completion_tokens=9), prompt)
    assert split.think_tokens == len(ids_of(renderer, "thirty three"))
    assert renderer.count(Reply(completion="33", completion_tokens=1), prompt).think_tokens == 0
    assert renderer.count(Reply(error="HTTP 400"), prompt) == Reply(error="HTTP 400")


def test_thought_that_the_prompt_opened_is_thinking_until_it_is_closed(renderer: Renderer) -> None:
    opened = renderer.render(Prompting.PAPER, f"{QUESTION}\n<think>\n")
    cut = renderer.count(Reply(completion="thirty th", finish_reason="length"), opened)
    assert cut.think_tokens == cut.completion_tokens == len(ids_of(renderer, "thirty th"))
    closed = renderer.count(Reply(completion="so</think>33", finish_reason="stop"), opened)
    assert closed.think_tokens == len(ids_of(renderer, "so</think>"))


def test_other_files_are_another_tokenizer(renderer: Renderer, altered: Callable[..., Renderer]) -> None:
    assert altered(model_max_length=77).fingerprint != renderer.fingerprint == Renderer(MODEL).fingerprint


def test_folders_that_are_no_tokenizer_are_refused(tmp_path: Path, altered: Callable[..., Renderer]) -> None:
    with pytest.raises(BadInput, match=r"holds no tokenizer\.json"):
        Renderer(tmp_path)
    with pytest.raises(BadInput, match="has no chat template"):
        altered(chat_template=None).render(Prompting.CHAT, QUESTION)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match="cannot be loaded"):
        Renderer(tmp_path)

"""The bundled pocket reasoners as files: what vLLM, transformers and the packed formats need of them. No engine."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from compress.families import layer_stages
from evaluate.benchmarks import arithmetic, logic, recall, temporal

MODELS = Path(__file__).parents[2] / "models"
FOLDERS = sorted(path.parent for path in MODELS.glob("*/config.json"))
TASKS = (temporal, logic, arithmetic, recall)
MIB = 1 << 20

each_model = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def read_json(path: Path) -> dict[str, object]:
    return json.loads(path.read_text())


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118


def test_two_families_are_bundled_and_a_small_model() -> None:
    families = {read_json(folder / "config.json")["model_type"] for folder in FOLDERS}
    sizes = [sum(rows * columns for rows, columns in _matrices(folder)) for folder in FOLDERS]
    assert families == {"llama", "qwen3"}
    assert min(sizes) < 2e6 and sum(size > 6e6 for size in sizes) == 2


def _matrices(folder: Path) -> list[tuple[int, int]]:
    return [(shape[0], shape[1]) for shape in shapes_of(folder).values() if len(shape) == 2]


def test_the_folder_stays_small() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 34 * MIB
    assert max(path.stat().st_size for path in files) <= 15 * MIB


@each_model
def test_every_file_is_there(folder: Path) -> None:
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert names | {"README.md"} <= {path.name for path in folder.iterdir()}


@each_model
def test_weights_are_bf16_and_shapes_suit_every_packed_format(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118
    shapes = shapes_of(folder)
    for unit in (unit for stage in layer_stages(shapes)[0] for unit in stage):
        members = [shapes[f"model.layers.0.{name}.weight"] for name in unit]
        assert sum(rows for rows, _ in members) % 128 == 0
        assert all(columns % 128 == 0 for _, columns in members)


@each_model
def test_thinking_tokens_are_single_and_not_special(folder: Path) -> None:
    added = {token["content"]: token for token in read_json(folder / "tokenizer.json")["added_tokens"]}
    assert not added["<think>"]["special"] and not added["</think>"]["special"]
    assert all(added[name]["special"] for name in ("<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer("<think>", add_special_tokens=False)["input_ids"]) == 1
    text = "<think>\n7 * 6 = 42\n</think>\n\\boxed{42}"
    ids = tokenizer(text + "<|eos|>", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


@each_model
def test_vocabulary_is_small_and_digits_are_single(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert 512 <= tokenizer.get_vocab_size() == read_json(folder / "config.json")["vocab_size"] <= 2048
    assert tokenizer.encode("739").tokens == ["7", "3", "9"]


@each_model
def test_chat_template_gives_the_prompt_of_training_with_one_bos(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    question = next(temporal.generate("test", 1, 0)).problem.question
    messages = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == f"<|bos|><|user|>{question}<|assistant|>"
    for add_special_tokens in (False, True):
        ids = tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids) == text


@each_model
def test_special_ids_agree_between_configs_and_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        config = read_json(folder / name)
        assert config["eos_token_id"] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|eos|>")
        assert config["bos_token_id"] == tokenizer.bos_token_id and config["pad_token_id"] == tokenizer.pad_token_id


@each_model
def test_completions_fit_256_tokens_and_prompts_the_context(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for task in TASKS:
        items = list(task.generate("test", 100, 0))
        assert max(len(tokenizer.encode(item.completion).ids) for item in items) < 256
        assert max(len(tokenizer.encode(item.problem.question).ids) for item in items) < 1024 - 256 - 3


def test_all_models_share_one_tokenizer() -> None:
    assert len({(folder / "tokenizer.json").read_text() for folder in FOLDERS}) == 1

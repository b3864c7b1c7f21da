"""config.json of a model without the network: from its folder, from the Hub's local cache, or known here by heart.

Sources of the shapes: the config.json of each on the Hugging Face Hub. Their parameter counts (1,777,088,000 to
671,026,419,200) are what the Hub shows for them; a test compares. Of DeepSeek-R1 it is the copy in 16 bits: what
DeepSeek published is quantized already.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import ModelError, nearest_name
from compress.families import Shapes, shapes_from_config
from sweep.parsing import show

if TYPE_CHECKING:
    from sweep.config import ModelConfig

Config = dict[str, Any]


def _decoder(family: str, vocab: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> Config:
    return {
        "model_type": family,
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "max_position_embeddings": 131_072,
        "tie_word_embeddings": False,
    }


KNOWN_CONFIGS: dict[str, Config] = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": _decoder("qwen2", 151_936, 1536, 8960, 28, 12, 2),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": _decoder("qwen2", 152_064, 3584, 18_944, 28, 28, 4),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B": _decoder("qwen2", 152_064, 5120, 13_824, 48, 40, 8),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": _decoder("qwen2", 152_064, 5120, 27_648, 64, 40, 8),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-8B": _decoder("llama", 128_256, 4096, 14_336, 32, 32, 8),
    "deepseek-ai/DeepSeek-R1-Distill-Llama-70B": _decoder("llama", 128_256, 8192, 28_672, 80, 64, 8),
    "Qwen/Qwen3-30B-A3B": {
        **_decoder("qwen3_moe", 151_936, 2048, 6144, 48, 32, 4),
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "max_position_embeddings": 40_960,
    },
    "unsloth/DeepSeek-R1-BF16": {
        **_decoder("deepseek_v3", 129_280, 7168, 18_432, 61, 128, 128),
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "max_position_embeddings": 163_840,
    },
}


def read_config(folder: Path) -> Config:
    """The folder's config.json. Raises ModelError: no folder, no config.json, no JSON mapping."""
    path = folder / "config.json"
    if not folder.is_dir():
        must = "a folder with config.json and *.safetensors files; it does not exist"
        raise ModelError("path", folder, must, nearest_folder(folder))
    if not path.is_file():
        raise ModelError("path", folder, "a folder with config.json; it has none", nearest_folder(folder))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ModelError("path", folder, "a folder whose config.json is readable JSON") from None
    if not isinstance(config, dict):
        raise ModelError("path", folder, "a folder whose config.json is a JSON mapping")
    return config


def find_config(model: ModelConfig) -> Config | None:
    """The model's config.json, or None when a Hub model is neither known here nor cached on this machine.

    Raises ModelError for a broken folder.
    """
    if model.path is not None:
        return read_config(model.path)
    cached = _cached_snapshot(str(model.hub), model.revision or "main")
    if cached is not None:
        return read_config(cached)
    return KNOWN_CONFIGS.get(str(model.hub))


def find_shapes(model: ModelConfig) -> Shapes | None:
    """Shapes of every tensor, or None where find_config knows nothing. Raises ModelError for another architecture."""
    config = find_config(model)
    return None if config is None else shapes_from_config(config)


def find_context(model: ModelConfig) -> int | None:
    """Positions that the model was made for, or None when unknown or stretched by rope scaling."""
    config = find_config(model) or {}
    positions = config.get("max_position_embeddings")
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    plain = not isinstance(scaling, dict) or scaling.get("rope_type", "default") == "default"
    return positions if isinstance(positions, int) and plain else None


def nearest_folder(folder: Path) -> str | None:
    """The model folder most like a missing one, beside it or under models/."""
    places = (folder.parent, Path("models"))
    found = {path.parent.name: path.parent for place in places for path in place.glob("*/config.json")}
    found.pop(folder.name, None)
    name = nearest_name(folder.name, found)
    return show(found[name]) if name else None


def nearest_known(hub: str) -> str | None:
    """The known Hub name most like an unknown one."""
    return nearest_name(hub, KNOWN_CONFIGS)


def _cached_snapshot(hub: str, revision: str) -> Path | None:
    """A Hub model's folder in the local cache, with config.json. Layout: huggingface_hub's cache guide."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub") / f"models--{hub.replace('/', '--')}"
    reference = cache / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = cache / "snapshots" / commit
    return snapshot if (snapshot / "config.json").is_file() else None

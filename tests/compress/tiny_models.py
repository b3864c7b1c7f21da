"""Tiny random models with a tokenizer, and text for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = "anna bela carl went to the red blue old market at noon and saw her there twice".split()  # noqa: SIM905


def sentences(count: int, length: int = 40) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(WORDS, k=length)) for _ in range(count)]


def moe_config(family: str, **changes: object) -> Any:
    """A model of experts with one dense layer before a sparse one."""
    import transformers

    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 384}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
    experts = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
    latents = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    deepseek = {**latents, "n_routed_experts": 8, "first_k_dense_replace": 1, "num_key_value_heads": 4}
    own: dict[str, dict[str, object]] = {
        "Qwen2Moe": {"num_experts": 8, "shared_expert_intermediate_size": 64, "decoder_sparse_step": 2},
        "Qwen3Moe": {"num_experts": 8, "mlp_only_layers": [0], "head_dim": 32, "tie_word_embeddings": True},
        "DeepseekV2": {**deepseek, "q_lora_rank": None, "n_shared_experts": 2},
        "DeepseekV3": {**deepseek, "q_lora_rank": 64, "n_shared_experts": 1, "n_group": 2, "topk_group": 1},
    }
    return getattr(transformers, f"{family}Config")(**{**sizes, **heads, **experts, **own[family], **changes})


def save_model(folder: Path, config: object, *, dtype: str = "bfloat16") -> Path:
    """A random model of `config` and a byte-level BPE tokenizer, as transformers saves them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences(20), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return folder

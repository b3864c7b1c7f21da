"""Where activations are kept, by what is free on a GPU (no GPU is needed to ask)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compress.activations import Activations, Batch, open_activations
from compress.families import shapes_from_config
from compress.scheme import Scheme
from compress.walk import working_bytes

GIB = 1 << 30
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 2,
    "vocab_size": 128256,
}
LLAMA_70B = {**LLAMA_8B, "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64}


def job(config: dict[str, object], propagate: str, num_schemes: int) -> SimpleNamespace:
    scheme = Scheme.from_json({"method": "gptq", "num_bits": 4, "group_size": 128, "propagate": propagate})
    target = SimpleNamespace(scheme=scheme)
    return SimpleNamespace(
        shapes=shapes_from_config(config), targets=[target] * num_schemes, rows=[range(2048)] * 128, config=config
    )


@pytest.mark.parametrize(
    ("config", "propagate", "num_schemes", "measured_gib"),
    [(LLAMA_8B, "dense", 12, 12.2), (LLAMA_8B, "compressed", 12, 12.6), (LLAMA_70B, "dense", 12, 34.2)],
)
def test_a_pass_takes_no_more_than_is_reckoned(
    config: dict[str, object], propagate: str, num_schemes: int, measured_gib: float
) -> None:
    """Peaks on an H100 less the activations (docs/compression.md)."""
    reckoned_gib = working_bytes(job(config, propagate, num_schemes)) / GIB
    assert measured_gib < reckoned_gib < 3 * measured_gib


@pytest.mark.parametrize(
    ("num_gib", "working_gib", "place"),
    [
        (20, None, "cuda"),  # a share of what is free
        (30, None, "cpu"),
        (30, 10, "cuda"),  # all but what the pass needs
        (71, 10, "cpu"),
        (20, 200, "cuda"),
    ],
)
def test_the_device_holds_what_it_has_room_for(
    num_gib: int, working_gib: int | None, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * GIB, 80 * GIB))
    working = None if working_gib is None else working_gib * GIB
    with open_activations(num_gib * GIB, torch.device("cuda"), 1 << 60, tmp_path, working) as activations:
        assert activations.place.type == place


def test_twelve_streams_of_an_8b_model_stay_on_an_80_gb_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = job(LLAMA_8B, "compressed", 12)
    num_bytes = 12 * 128 * 2048 * 4096 * 2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GIB, 80 * GIB))
    with open_activations(num_bytes, torch.device("cuda"), None, tmp_path, working_bytes(asked)) as activations:
        assert activations.description == "device"


@pytest.mark.parametrize("can_pin", [True, False])
def test_batches_of_the_host_lie_side_by_side_in_pinned_blocks(
    can_pin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU nothing is pinned; where the memory comes from is the same."""
    blocks: list[int] = []
    empty = torch.empty

    def allocate(*size: int, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if pin_memory:
            if not can_pin:
                raise RuntimeError("CUDA error: out of memory")
            blocks.append(*size)
        return empty(*size, **options)

    monkeypatch.setattr(torch, "empty", allocate)
    monkeypatch.setattr("compress.activations.PINNED_BYTES", 200)
    activations = Activations(torch.device("cuda"), torch.device("cpu"), None)
    hidden = [torch.randn(rows, 5, 2, dtype=torch.float16) for rows in (3, 5, 2, 40)]
    kept = [activations.keep(Batch(values, None, ())) for values in hidden]
    assert blocks == ([200, 800] if can_pin else [])
    assert all(torch.equal(one.hidden, values) for one, values in zip(kept, hidden, strict=True))
    activations.store(kept[1], Batch(hidden[1] + 1, None, ()))
    assert torch.equal(kept[1].hidden, hidden[1] + 1)
    assert all(torch.equal(kept[i].hidden, hidden[i]) for i in (0, 2, 3))

"""vLLM's engine arguments, read from the source of the installed package: importing vLLM takes ten seconds."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from compress.errors import nearest_name
from sweep.parsing import Refusal

# The product sets these itself: from the checkpoint, the slot and the study.
OWN_ARGUMENTS = {
    "model": "models",
    "model_weights": "models",
    "tokenizer": "models",
    "tokenizer_revision": "models",
    "hf_config_path": "models",
    "revision": "models",
    "code_revision": "models",
    "served_model_name": "models",
    "quantization": "format",
    "seed": "seed",
    "distributed_executor_backend": "engine.num_gpus",
}
# Ranges of the numbers that a study sets; every other number of vLLM's must at least be of a readable size.
RANGES: Mapping[str, tuple[float, float]] = {
    "max_model_len": (1, 10_000_000),
    "max_num_seqs": (1, 65_536),
    "max_num_batched_tokens": (1, 10_000_000),
    "kv_cache_memory_bytes": (2**20, 2**50),
    "gpu_memory_utilization": (0.01, 1),
    "tensor_parallel_size": (1, 64),
    "pipeline_parallel_size": (1, 64),
    "data_parallel_size": (1, 64),
    "block_size": (1, 4096),
    "cpu_offload_gb": (0, 100_000),
}
LIMIT = 1e15
_SCALARS: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}


@cache
def engine_arguments() -> dict[str, str] | None:
    """{name: annotation} of the arguments of AsyncEngineArgs, or None when vLLM is not installed."""
    source = _package() / "engine" / "arg_utils.py"
    if not source.is_file():
        return None
    classes = {
        node.name: node
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
    }
    fields = [field for node in classes.values() for field in node.body if isinstance(field, ast.AnnAssign)]
    return {
        field.target.id: ast.unparse(field.annotation)
        for field in fields
        if isinstance(field.target, ast.Name) and not field.target.id.startswith("_")
    }


@cache
def argument_values(annotation: str) -> tuple[str, ...]:
    """The words that an argument of this annotation takes, or () where vLLM's source does not simply list them."""
    listed = annotation if annotation.isidentifier() else ""
    if listed:
        pattern = re.compile(rf"^{annotation} = (Literal\[.*?\])", re.MULTILINE | re.DOTALL)
        texts = (path.read_text(encoding="utf-8") for path in sorted((_package() / "config").glob("*.py")))
        listed = next((match[1] for text in texts if (match := pattern.search(text))), "")
    nodes = list(ast.walk(ast.parse(listed, mode="eval"))) if listed else []
    if any(isinstance(node, ast.Name) and node.id != "Literal" for node in nodes):  # built from another list
        return ()
    return tuple(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


def check_engine_kwargs(kwargs: Mapping[str, object]) -> None:
    """Raise Refusal (key below engine.engine_kwargs) for an unknown argument, one of ours, or a wrong value."""
    arguments = engine_arguments()
    for name, value in kwargs.items():
        key = f"engine.engine_kwargs.{name}"
        if name in OWN_ARGUMENTS:
            raise Refusal(f"left out: it follows from the study's {OWN_ARGUMENTS[name]}", key=key, value=value)
        if arguments is not None and name not in arguments:
            nearest = nearest_name(name, [known for known in arguments if known not in OWN_ARGUMENTS])
            must = "the name of one of vLLM's engine arguments"
            raise Refusal(must, key=key, value=value, nearest=nearest)
        _check_value(key, name, value, (arguments or {}).get(name, ""))


def _package() -> Path:
    """vLLM's folder; one that does not exist when it is not installed."""
    spec = importlib.util.find_spec("vllm")
    return Path(spec.origin).parent if spec is not None and spec.origin else Path("/nonexistent/vllm")


def _check_value(key: str, name: str, value: object, annotation: str) -> None:
    words = [word.strip() for word in annotation.split("|")]
    kinds = [kind for word in words if word != "None" for kind in _SCALARS.get(word, (object,))]
    is_none = value is None and "None" in words
    if kinds and not is_none and not isinstance(value, tuple(kinds)):
        raise Refusal(f"of vLLM's type {annotation}", key=key, value=value)
    choices = argument_values(annotation)
    if choices and value not in choices:
        raise Refusal(f"one of {', '.join(choices)}", key=key, value=value, nearest=nearest_name(str(value), choices))
    if isinstance(value, bool):
        if kinds and object not in kinds and bool not in kinds:
            raise Refusal(f"of vLLM's type {annotation}", key=key, value=value)
    elif isinstance(value, int | float):
        low, high = RANGES.get(name, (-LIMIT, LIMIT))
        if not low <= value <= high:
            raise Refusal(f"a number from {low:.10g} to {high:.10g}", key=key, value=value)

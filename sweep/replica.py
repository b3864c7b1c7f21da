"""One vLLM engine in a Ray Serve replica: vLLM's own OpenAI server, and weights that are swapped while it runs.

Loaded only in the replica's process. Serve starts, watches and ends it; requests come to the replica's own port, since
Serve's proxy costs as much a request as the server itself (docs/evaluation.md). A request names the checkpoint it wants
(`served_model_name`), and the name moves with the weights: a replica that Serve restarted, or that holds other weights,
answers 404 and never a score.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import math
import os
import socket
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve

from compress.checkpoint import weights_fingerprint
from sweep.errors import CanaryMismatch, EngineFailed
from sweep.leases import find_pool

CANARY_TEXT = "The quick brown fox woke up at 7am, counted 12 eggs and 345 stones, and then went to the market."
# The same weights give the same log-probabilities to within bf16 noise of another batch shape; two quantizations of
# one model differ by far more in their largest entry.
SAME_CANARY_NATS = 2e-2
ORPHAN_POLL_S = 5.0


@dataclass(frozen=True)
class ServedCheckpoint:
    """What a replica holds: the folder, the name that requests must give, and the fingerprint of its weights."""

    folder: Path
    name: str
    fingerprint: str


def replica_environment(num_cpus: int, num_gpus: float) -> dict[str, str]:
    """Environment of a replica's process that has `num_cpus` cores; needed before torch and vLLM are imported."""
    return {
        # One core is left to HTTP and the client: with all of them the engine's threads wait for each other at every
        # step. On a GPU the processor only prepares steps, which is too little work for a second thread.
        "OMP_NUM_THREADS": "1" if num_gpus else str(max(1, num_cpus - 1)),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "1" if num_cpus > 1 else "0",
        "VLLM_CPU_INT4_W4A8": "0",  # AMX machines would quantize activations too: not comparable scores
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def engine_arguments(checkpoint: ServedCheckpoint, engine_kwargs: Mapping[str, Any], device: str) -> dict[str, Any]:
    """vLLM's arguments by its own names: the study's, and those that this product sets itself."""
    defaults: dict[str, Any] = {"disable_log_stats": True}
    if device == "cpu":  # vLLM 0.32 dies there on a seeded request whose prompt it cuts into chunks
        defaults["enable_chunked_prefill"] = False
    if engine_kwargs.get("tensor_parallel_size", 1) * engine_kwargs.get("pipeline_parallel_size", 1) == 1:
        defaults["distributed_executor_backend"] = "uni"  # the model in the engine's own process: starts sooner
    own = {"model": str(checkpoint.folder), "served_model_name": [checkpoint.name]}
    return {**defaults, **engine_kwargs, **own}


class VllmReplica:
    """A Serve deployment around vLLM's AsyncLLM.

    Raises EngineFailed where vLLM cannot load the checkpoint, CanaryMismatch where the weights it then holds are
    not the ones asked for.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        checkpoint: ServedCheckpoint,
        engine_kwargs: Mapping[str, Any],
        log: Path,
        owner: str,
        host: str | None,
    ) -> None:
        _write_output_to(log)
        self._checkpoint = checkpoint
        self._canaries: dict[str, tuple[float, ...]] = {}
        self._last_canary: tuple[float, ...] = ()
        await _verify_files(checkpoint)
        self._arguments = _parse_arguments(engine_arguments(checkpoint, engine_kwargs, _prepare_device()))
        # The engine's processes import vLLM anew; while this one waits for them, it imports the application.
        application = asyncio.get_running_loop().run_in_executor(None, _openai_application)
        self._engine = _start_engine(self._arguments)
        await self._check_canary(checkpoint)
        await self._listen(*await application, host or ray.util.get_node_ip_address())
        self._watch = asyncio.get_running_loop().create_task(_end_with(owner, serve.get_replica_context().app_name))

    async def _listen(self, build_app: Any, init_app_state: Any, host: str) -> None:
        """Serve vLLM's application on a free port of `host`."""
        import uvicorn

        tasks = await self._engine.get_supported_tasks()
        self._app = build_app(self._arguments, tasks, self._engine.model_config)
        await init_app_state(self._engine, self._app.state, self._arguments, tasks)
        server = uvicorn.Server(uvicorn.Config(self._app, log_level="warning", access_log=False, backlog=4096))
        self._app.state.server = server  # vLLM ends it when its engine has died
        is_ipv6 = ":" in host
        listener = socket.create_server((host, 0), family=socket.AF_INET6 if is_ipv6 else socket.AF_INET)
        self._url = f"http://{f'[{host}]' if is_ipv6 else host}:{listener.getsockname()[1]}/v1"
        self._server = asyncio.get_running_loop().create_task(_serve(server, listener))
        while not server.started:
            if self._server.done():
                await self._server
                raise EngineFailed("vLLM's HTTP server ended at once")
            await asyncio.sleep(0.01)

    async def url(self) -> str:
        """Where vLLM's OpenAI server answers."""
        return self._url

    async def check_health(self) -> None:
        await self._engine.check_health()
        if self._server.done():
            raise EngineFailed("its HTTP server ended")

    async def process_id(self) -> int:
        return os.getpid()

    async def swap(self, checkpoint: ServedCheckpoint) -> None:
        """Replace the weights by those of another checkpoint of the same layout."""
        if checkpoint == self._checkpoint:
            return
        await _verify_files(checkpoint)
        self._rename("(swapping weights)")  # from here on nothing may be answered under the old name
        try:
            await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(checkpoint.folder)})
        except Exception as error:
            raise EngineFailed(f"vLLM could not swap in {checkpoint.folder}: {error}") from error
        await self._engine.reset_prefix_cache()
        await self._check_canary(checkpoint)
        self._checkpoint = checkpoint
        self._rename(checkpoint.name)

    def _rename(self, name: str) -> None:
        models = self._app.state.openai_serving_models
        models.base_model_paths[:] = [type(path)(name, path.model_path) for path in models.base_model_paths[:1]]

    async def _check_canary(self, checkpoint: ServedCheckpoint) -> None:
        """The log-probabilities of a fixed text are finite, move with the weights and return with them."""
        found = await self._canary()
        if not all(math.isfinite(value) for value in found):
            raise CanaryMismatch(f"{checkpoint.folder}: the model gives log-probabilities that are not finite")
        for fingerprint, known in self._canaries.items():
            same = max(abs(a - b) for a, b in zip(found, known, strict=True)) <= SAME_CANARY_NATS
            if fingerprint == checkpoint.fingerprint and not same:
                raise CanaryMismatch(f"{checkpoint.folder}: the engine answers differently than when it last held it")
        if self._canaries and checkpoint.fingerprint not in self._canaries and found == self._last_canary:
            raise CanaryMismatch(f"{checkpoint.folder}: the engine still answers with the weights it held before")
        self._canaries[checkpoint.fingerprint] = found
        self._last_canary = found

    async def _canary(self) -> tuple[float, ...]:
        from vllm import SamplingParams

        tokens = self._engine.get_tokenizer().encode(CANARY_TEXT)
        parameters = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        prompt = {"prompt_token_ids": tokens}
        async for output in self._engine.generate(prompt, parameters, request_id=f"canary-{uuid.uuid4().hex}"):
            final = output
        scored = zip(tokens, final.prompt_logprobs, strict=True)
        return tuple(entry[token].logprob for token, entry in scored if entry is not None)


async def _serve(server: Any, listener: socket.socket) -> None:
    """Run uvicorn. Raises EngineFailed where the application does not start: a SystemExit would end the event loop."""
    try:
        await server.serve(sockets=[listener])
    except SystemExit as error:
        raise EngineFailed(f"vLLM's application did not start (exit code {error.code})") from error


def _write_output_to(log: Path) -> None:
    """Send what the engine prints, native crashes included, to a file that a failure can name."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def _prepare_device() -> str:
    """What the engine will run on, cpu or cuda; sets what vLLM reads for it when it is imported."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # else vLLM spawns a worker below the engine's process
    return "cpu"


async def _verify_files(checkpoint: ServedCheckpoint) -> None:
    found = await asyncio.to_thread(weights_fingerprint, checkpoint.folder)
    if found != checkpoint.fingerprint:
        raise CanaryMismatch(
            f"{checkpoint.folder}: its files hash to {found[:12]}, its record says {checkpoint.fingerprint[:12]}; "
            "delete the folder to compress it anew"
        )


def _parse_arguments(arguments: Mapping[str, Any]) -> Any:
    """vLLM's server namespace with our values set, so that its defaults stay its own."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    namespace = _import_first(
        "vllm.entrypoints.launchers.cli_args:make_arg_parser", "vllm.entrypoints.openai.cli_args:make_arg_parser"
    )(FlexibleArgumentParser()).parse_args([])
    for key, value in arguments.items():
        setattr(namespace, key, value)
    return namespace


def _start_engine(arguments: Any) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(arguments))


def _openai_application() -> tuple[Any, Any]:
    old = "vllm.entrypoints.openai.api_server"
    return (
        _import_first("vllm.entrypoints.launchers.app:build_app", f"{old}:build_app"),
        _import_first("vllm.entrypoints.launchers.api_server.app_state:init_app_state", f"{old}:init_app_state"),
    )


def _import_first(*places: str) -> Any:
    """The first of "module:name" that this vLLM has: its server moved between 0.26 and 0.32."""
    for place in places[:-1]:
        module, name = place.split(":")
        with contextlib.suppress(ImportError):
            return getattr(importlib.import_module(module), name)
    module, name = places[-1].split(":")
    return getattr(importlib.import_module(module), name)


async def _end_with(owner: str, app_name: str) -> None:
    """Delete this application once the study's slot pool is gone: Serve's replicas outlive a dead driver."""
    while True:
        await asyncio.sleep(ORPHAN_POLL_S)
        try:
            await find_pool(owner).ping.remote()
        except (ValueError, ray.exceptions.RayActorError):
            await asyncio.to_thread(serve.delete, app_name, False)
            return

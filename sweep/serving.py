"""Engines: one Ray Serve application a slot, kept warm from trial to trial while the layout of the weights fits.

`serve_checkpoint` is the one way in. It swaps the checkpoint into the slot's engine where the layout matches, starts
a new engine otherwise, and ends the engine when anything goes wrong in its `with` block.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from evaluate.schema import Endpoint
from sweep.cluster import QUIET
from sweep.errors import CanaryMismatch, EngineFailed, TrialError
from sweep.leases import EngineState, Slot
from sweep.replica import ServedCheckpoint, VllmReplica, replica_environment

POLL_S = 0.25
# Files of a checkpoint that a running engine has already built something from: with others it must start anew.
LAYOUT_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
)
WRITER_KEYS = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype"})  # say who wrote a config


@dataclass(frozen=True)
class EngineSettings:
    """How every engine of a study is started. Times in seconds. host: None for the address of the engine's node."""

    num_gpus: float
    num_cpus: int
    start_timeout_s: float
    engine_kwargs: Mapping[str, Any]
    host: str | None
    log_folder: Path
    owner: str


def layout_key(folder: Path, engine_kwargs: Mapping[str, Any]) -> str:
    """Checkpoints with one key can be swapped in one engine: same architecture, quantization layout and tokenizer.

    W8A8 has a key for every folder: swapped into an engine on a CPU, it answers with NaN.
    """
    content: dict[str, Any] = {"engine_kwargs": dict(engine_kwargs)}
    for path in (folder / name for name in LAYOUT_FILES):
        if path.suffix == ".json" and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            content[path.name] = {key: value for key, value in found.items() if key not in WRITER_KEYS}
        elif path.exists():
            content[path.name] = path.read_text(encoding="utf-8")
    if (content.get("config.json", {}).get("quantization_config") or {}).get("format") == "int-quantized":
        content["folder"] = str(folder)
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=12).hexdigest()


@contextmanager
def serve_checkpoint(checkpoint: ServedCheckpoint, slot: Slot, settings: EngineSettings) -> Iterator[Endpoint]:
    """Yield an endpoint that answers with `checkpoint`'s weights; the engine stays in the slot for the next trial.

    Raises EngineFailed (did not start in time, died, cannot load) or CanaryMismatch (holds other weights).
    """
    layout = layout_key(checkpoint.folder, settings.engine_kwargs)
    try:
        if slot.engine is not None and slot.engine.layout == layout and engine_fault(slot) is None:
            _call("swap", slot.app_name, settings.start_timeout_s, checkpoint)
        else:
            end_engine(slot)
            slot.record(EngineState())
            started = time.monotonic()
            _start(checkpoint, slot.app_name, settings)
            slot.record(EngineState(layout, time.monotonic() - started))
        yield Endpoint(url=_call("url", slot.app_name, settings.start_timeout_s), model=checkpoint.name)
    except BaseException:
        end_engine(slot)
        raise


def end_engine(slot: Slot) -> None:
    """Delete the slot's application and wait until its replica is gone."""
    if slot.engine is not None:
        end_application(slot.app_name)
        slot.record(None)


def end_application(app_name: str) -> None:
    """Delete an application; one that is not there is no error."""
    serve.delete(app_name)


def engine_fault(slot: Slot) -> str | None:
    """What Serve says is wrong with the slot's engine, or None while it is healthy."""
    application = serve.status().applications.get(slot.app_name)
    if application is None:
        return "its application is gone"
    if application.status is ApplicationStatus.RUNNING:
        return None
    return _first_line(_message(application)) or application.status.value.lower()


def log_path(app_name: str, settings: EngineSettings) -> Path:
    return settings.log_folder / f"{app_name}.log"


def _start(checkpoint: ServedCheckpoint, app_name: str, settings: EngineSettings) -> None:
    log = log_path(app_name, settings)
    deployment: Any = serve.deployment(VllmReplica)
    deployment = deployment.options(
        name="vllm",
        num_replicas=1,
        max_constructor_retry_count=1,
        health_check_period_s=2,
        logging_config=QUIET,
        graceful_shutdown_timeout_s=2,
        ray_actor_options={
            "num_cpus": 0,  # the slot is what counts; a bundle of CPUs would wait for ever on a small machine
            "num_gpus": settings.num_gpus,
            "runtime_env": {"env_vars": replica_environment(settings.num_cpus, settings.num_gpus)},
        },
    )
    app = deployment.bind(checkpoint, dict(settings.engine_kwargs), log, settings.owner, settings.host)
    target = serve.RunTarget(target=app, name=app_name, route_prefix=None)
    serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    deadline = time.monotonic() + settings.start_timeout_s
    while True:
        application = serve.status().applications.get(app_name)
        match application.status if application else None:
            case ApplicationStatus.RUNNING:
                return
            case ApplicationStatus.DEPLOY_FAILED | ApplicationStatus.UNHEALTHY:
                raise _start_failure(_message(application) if application else "", log)
            case _ if time.monotonic() > deadline:
                raise EngineFailed(
                    f"no healthy engine after engine.start_timeout_s = {settings.start_timeout_s:g} s; log: {log}"
                )
        time.sleep(POLL_S)


def _call(method: str, app_name: str, timeout_s: float, *arguments: ServedCheckpoint) -> Any:
    """What a method of the slot's replica returns. Raises its TrialError, or EngineFailed where it died."""
    what = " ".join((method, *(str(argument.folder) for argument in arguments)))
    try:
        return serve.get_app_handle(app_name).options(method_name=method).remote(*arguments).result(timeout_s=timeout_s)
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, TrialError) else EngineFailed(f"{what} failed: {cause}") from error
    except (RayActorError, RayServeException, TimeoutError) as error:
        raise EngineFailed(f"the engine died ({what}): {error}") from error


def _start_failure(message: str, log: Path) -> TrialError:
    """Serve hands the replica's traceback over as text; its last line is the cause."""
    words = ("Error", "Mismatch", "EngineFailed")
    cause = next((s.strip() for s in reversed(message.splitlines()) if any(word in s for word in words)), "")
    kind = CanaryMismatch if "CanaryMismatch" in cause else EngineFailed
    return kind(f"the engine did not start: {cause or _first_line(message)}; log: {log}")


def _message(application: Any) -> str:
    """What Serve says of an application: the deployments' own words hold the cause, the application's often do not."""
    parts = [application.message, *(deployment.message for deployment in application.deployments.values())]
    return "\n".join(filter(None, reversed(parts)))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""

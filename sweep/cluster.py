"""The Ray cluster of a study: a local one that ends with the driver, or one that is joined by its address."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import serve

from sweep.reaper import reaper

QUIET = {"log_level": "WARNING", "enable_access_log": False}


@dataclass(frozen=True)
class Cluster:
    """engine_host: the address at which engines listen; None for that of the node each one runs on."""

    engine_host: str | None


@contextmanager
def start_cluster(address: str | None, num_slots: int) -> Iterator[Cluster]:
    """Start (or join) Ray and Serve; a local cluster and its Serve are ended on the way out, error or Ctrl-C too."""
    with reaper() if address is None else nullcontext():
        yield from _cluster(address, num_slots)


def _cluster(address: str | None, num_slots: int) -> Iterator[Cluster]:
    local = address is None
    _init_ray(address, num_slots)
    try:
        if local:
            serve.start(proxy_location="Disabled", logging_config=QUIET)
        else:  # Serve stays there, and others may want its proxy
            host = ray.util.get_node_ip_address()
            options = {"host": host, "port": _free_port(host)}
            serve.start(proxy_location="HeadOnly", http_options=options, logging_config=QUIET)
        yield Cluster(engine_host="127.0.0.1" if local else None)
    finally:
        with suppress(KeyboardInterrupt):  # a second Ctrl-C must not leave processes behind
            try:
                if local:
                    serve.shutdown()
            finally:
                ray.shutdown()


def _init_ray(address: str | None, num_slots: int) -> None:
    packages = str(Path(__file__).resolve().parent.parent)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None:
        upload = {"working_dir": packages, "excludes": ["mlruns", ".venv", ".git"]}
        ray.init(address=address, runtime_env=upload, **quiet)
        return
    paths = [packages, os.environ.get("PYTHONPATH", "")]
    ray.init(
        address="local",
        # Trials, replicas and actors ask for no CPU: the slots bound them. Ray's own services need a few.
        num_cpus=max(4, os.cpu_count() or 1, 2 * num_slots),
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, paths))}},
        **quiet,
    )


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])

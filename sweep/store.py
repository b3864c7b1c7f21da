"""Where a study's results live, keyed by content, and how they are read back.

    <store>/checkpoints/MODEL.SCHEME.KEY/   weights and compression_report.json; made once, never changed
    <store>/answers/NAME.SEED.KEY/          answers.jsonl, spec.json, summary.json of one evaluation
    mlruns/studies/STUDY/                   study.json, proposals.jsonl, failures/, timings/, logs/, lock

A result is complete when its last file is there, so whoever is killed leaves nothing half-believed, and the table of a
study is a pure function of what these folders hold.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.checkpoint import weights_fingerprint
from compress.report import REPORT_NAME
from compress.scheme import Scheme
from compress.size import weight_files

STUDIES = Path("mlruns/studies")


@dataclass(frozen=True)
class StudyFolder:
    """Paths of one study's own files."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "study.json"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def proposals(self) -> Path:
        return self.path / "proposals.jsonl"

    def failure(self, trial_name: str) -> Path:
        return self.path / "failures" / f"{file_name(trial_name)}.json"

    def forget_failures(self, since: float) -> None:
        """Delete what was recorded from this time.time() on."""
        for record in (self.path / "failures").glob("*.json"):
            if record.stat().st_mtime >= since:
                record.unlink()

    def timing(self, trial_name: str) -> Path:
        return self.path / "timings" / f"{file_name(trial_name)}.json"


def study_folder(name: str) -> StudyFolder:
    return StudyFolder((STUDIES / name).absolute())


def file_name(name: str) -> str:
    """A trial's name as one part of a path: MODEL/SCHEME becomes MODEL.SCHEME."""
    return name.replace("/", ".").replace(":", "of")


def content_key(content: Mapping[str, Any]) -> str:
    """12 hex digits that name a mapping of plain values."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()


def write_json(path: Path, content: Any) -> None:
    """Write a whole file or none. Keys keep their order: a study's first objective leads its table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


def read_json(path: Path) -> Any | None:
    """The file's content, None where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_proposals(folder: StudyFolder) -> list[dict[str, Any]]:
    """What search algorithms have proposed, {launch, trial, params} each; a torn line was never started."""
    if not folder.proposals.exists():
        return []
    found = []
    for line in folder.proposals.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an advisory lock that the kernel gives back when its process dies; yields False where `wait` is off and
    somebody else holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def checkpoint_folder(
    store: Path, model_name: str, base_fingerprint: str, scheme: Scheme, calibration_hash: str | None, format: str
) -> Path:
    """Where the checkpoint of one scheme of one base model stands, or will."""
    settings = scheme.to_json()
    settings.get("repair", {}).pop("traces", None)  # where the file lies; its hash stands beside
    content = {"base": base_fingerprint, "scheme": settings, "calibration": calibration_hash, "format": format}
    return store / "checkpoints" / f"{model_name}.{file_name(scheme.name)}.{content_key(content)}"


def is_whole(checkpoint: Path) -> bool:
    return (checkpoint / REPORT_NAME).exists()


def base_fingerprint(store: Path, folder: Path) -> str:
    """weights_fingerprint of a base model, remembered by its files' sizes and times: they can be 140 GB."""
    files = [folder / "config.json", *weight_files(folder)]
    stats = {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}
    remembered = store / "fingerprints" / f"{content_key({'folder': str(folder), 'files': stats})}.json"
    found = read_json(remembered)
    if found is None:
        found = weights_fingerprint(folder)
        write_json(remembered, found)
    return str(found)

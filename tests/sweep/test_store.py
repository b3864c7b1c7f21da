"""Keys, whole files and locks: what a killed or a second process may and may not see."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from compress.report import REPORT_NAME
from compress.scheme import Method, Scheme
from sweep.store import (
    base_fingerprint,
    checkpoint_folder,
    content_key,
    file_name,
    is_whole,
    locked,
    read_json,
    read_proposals,
    study_folder,
    write_json,
)

ROOT = Path(__file__).resolve().parents[2]
SCHEME = Scheme(Method.GPTQ, num_bits=3, group_size=64)


def test_a_checkpoint_is_named_by_all_that_decides_its_bytes(tmp_path: Path) -> None:
    def folder(base: str = "f1", scheme: Scheme = SCHEME, calibration: str | None = "c1", form: str = "packed") -> Path:
        return checkpoint_folder(tmp_path, "alpha", base, scheme, calibration, form)

    others = [
        folder(base="f2"),
        folder(calibration="c2"),
        folder(calibration=None),
        folder(form="dequantized"),
        folder(scheme=replace(SCHEME, num_bits=4)),
        folder(scheme=replace(SCHEME, dampening_frac=0.02)),
        folder(scheme=replace(SCHEME, act_order=not SCHEME.act_order)),
    ]
    pruned = [Scheme(Method.MAGNITUDE, sparsity=share) for share in (0.5, 0.5000001)]  # of one name
    others += [folder(scheme=scheme) for scheme in pruned]
    assert folder() == folder()
    assert len({folder(), *others}) == 1 + len(others)
    assert folder().name.startswith("alpha.gptq-w3-g64-sym.")


def test_a_key_depends_on_content_alone() -> None:
    assert content_key({"a": 1, "b": {"c": 2, "d": 3}}) == content_key({"b": {"d": 3, "c": 2}, "a": 1})
    assert content_key({"a": 1}) != content_key({"a": "1"})


def test_a_pattern_stands_in_a_file_name_without_a_colon() -> None:
    assert file_name("alpha/sparsegpt-2:4-w4-g64-sym") == "alpha.sparsegpt-2of4-w4-g64-sym"


def test_a_checkpoint_is_whole_once_its_report_is_there(tmp_path: Path) -> None:
    assert not is_whole(tmp_path / "absent")
    (tmp_path / "model.safetensors").touch()
    assert not is_whole(tmp_path)
    (tmp_path / REPORT_NAME).touch()
    assert is_whole(tmp_path)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "made" / "at" / "once.json"
    assert read_json(path) is None
    write_json(path, {"b": [1], "a": Path("x")})
    first = path.read_bytes()
    assert list(read_json(path).items()) == [("b", [1]), ("a", "x")]
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(ValueError, match="Circular"):
        write_json(path, circle)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["once.json"]


def test_a_fingerprint_is_remembered_until_a_file_changes(tmp_path: Path) -> None:
    from tests.sweep.conftest import CONFIG
    from tests.sweep.studies import save_weights

    model, store = tmp_path / "alpha", tmp_path / "store"
    model.mkdir()
    write_json(model / "config.json", CONFIG)
    save_weights(model)
    first = base_fingerprint(store, model)
    (remembered,) = (store / "fingerprints").iterdir()
    write_json(remembered, "as remembered")
    assert base_fingerprint(store, model) == "as remembered"
    save_weights(model, seed=1)
    second = base_fingerprint(store, model)
    assert second not in (first, "as remembered")
    assert len(second) == 64


HOLDER = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from sweep.store import locked
with locked(Path({lock!r})) as held:
    print(held, flush=True)
    time.sleep(600)
"""


def test_a_lock_excludes_others_and_dies_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "one"
    program = HOLDER.format(root=str(ROOT), lock=str(lock))
    holder = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with locked(lock, wait=False) as held:
            assert not held
        holder.kill()
        holder.wait()
        with locked(lock) as held:  # waits for nobody any more
            assert held
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()


def test_a_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "lock"):
        raise RuntimeError
    with locked(tmp_path / "lock", wait=False) as held, locked(tmp_path / "lock", wait=False) as again:
        assert (held, again) == (True, False)


def test_a_child_process_does_not_inherit_a_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with locked(lock) as held:
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        assert held
        with locked(lock, wait=False) as free:
            assert free
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("torn", ['{"launch": "a", "trial": "y", "params": {"model": "x"}', '{"launch": "a", "tri', ""])
def test_a_torn_last_proposal_is_none(torn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = study_folder("torn")
    assert read_proposals(folder) == []
    whole = '{"launch": "a", "trial": "x", "params": {"model": "x"}}\n'
    folder.path.mkdir(parents=True)
    folder.proposals.write_text(whole + torn)
    assert [entry["trial"] for entry in read_proposals(folder)] == ["x"]
    with folder.proposals.open("a") as file:
        file.write(os.linesep + whole)
    assert [entry["trial"] for entry in read_proposals(folder)] == ["x", "x"]

"""Folders appear whole or not at all."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.checkpoint import read_config, weights_fingerprint, whole_folder
from compress.errors import InputError, ModelError


def test_success_renames_and_errors_leave_nothing(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "deep/out") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "deep/out").exists()
        assert folder.parent == tmp_path / "deep"  # the same file system, so that rename is atomic
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), whole_folder(tmp_path / "deep/other") as folder:
            (folder / "file").write_text("x")
            raise error
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


def test_a_folder_made_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError), whole_folder(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/theirs").write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/theirs").exists()


def test_a_killed_writer_leaves_no_checkpoint_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from compress.checkpoint import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'model.safetensors').write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE, cwd=Path.cwd()) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        half_written = list(tmp_path.iterdir())
        with whole_folder(tmp_path / "out") as folder:  # a living writer's folder is left alone
            assert half_written[0].exists()
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            (folder / "file").write_text("x")
    assert half_written[0].exists() and not (out / "model.safetensors").exists()
    out.rename(tmp_path / "kept")
    with whole_folder(out):
        assert not half_written[0].exists()


def test_leftovers_of_other_hosts_are_not_judged(tmp_path: Path) -> None:
    theirs = tmp_path / f".out.tmp-{socket.gethostname()}x-{os.getpid()}"
    theirs.mkdir()
    with whole_folder(tmp_path / "out"):
        assert theirs.exists()


def test_fingerprint_follows_weights_and_config(llama: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(llama, copy)
    (copy / "README.md").write_text("anything")
    time.sleep(0.01)
    (copy / "tokenizer_config.json").touch()
    assert weights_fingerprint(copy) == weights_fingerprint(llama)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    changed = weights_fingerprint(copy)
    assert changed != weights_fingerprint(llama)
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config + " ")
    assert weights_fingerprint(copy) != changed


def test_missing_and_unreadable_models_are_named(tmp_path: Path) -> None:
    (tmp_path / "pocket-llama").mkdir()
    with pytest.raises(ModelError, match=r"nearest: .*pocket-llama"):
        read_config(tmp_path / "pocket-lama")
    with pytest.raises(ModelError, match=r"config\.json is No such file"):
        read_config(tmp_path / "pocket-llama")
    (tmp_path / "pocket-llama/config.json").write_text("[]")
    with pytest.raises(ModelError, match="a JSON object"):
        read_config(tmp_path / "pocket-llama")

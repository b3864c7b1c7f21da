"""Folders appear whole or not at all."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.checkpoint import publish, read_config, weights_fingerprint, whole_folders
from compress.errors import InputError, ModelError


def test_published_folders_appear_and_others_are_gone(tmp_path: Path) -> None:
    outs = [tmp_path / "deep/one", tmp_path / "deep/two"]
    with whole_folders(outs, "key") as folders:
        for folder in folders:
            (folder / "file").write_text("x")
            assert folder.parent == tmp_path / "deep"  # the same file system, so that rename is atomic
        assert not any(out.exists() for out in outs)
        publish(folders[0], outs[0])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["one"]
    assert [path.name for path in outs[0].iterdir()] == ["file"]


def test_errors_leave_nothing_and_an_interruption_leaves_its_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError), whole_folders([out], "key") as (folder,):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), whole_folders([out], "key") as (folder,):
        (folder / "file").write_text("x")
        raise KeyboardInterrupt
    with whole_folders([out], "key") as (folder,):
        assert (folder / "file").read_text() == "x"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_made_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError), whole_folders([tmp_path / "out"], "key") as (folder,):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/theirs").write_text("x")
        publish(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out/theirs").exists()


@pytest.mark.parametrize("key", ["same", "other"])
def test_a_killed_writers_work_is_gone_on_with_by_its_like_alone(tmp_path: Path, key: str) -> None:
    code = (
        "import sys, time; from pathlib import Path; from compress.checkpoint import whole_folders\n"
        "with whole_folders([Path(sys.argv[1])], 'same') as (folder,):\n"
        "    (folder / 'model.safetensors').write_text('half'); print('writing', flush=True); time.sleep(60)\n"
    )
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", code, out], stdout=subprocess.PIPE, cwd=Path.cwd()) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        half_written = list(tmp_path.iterdir())
        with whole_folders([out], "same") as (folder,):  # a living writer's folder is left alone
            assert half_written[0].exists() and not (folder / "model.safetensors").exists()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert half_written[0].exists() and not out.exists()
    with whole_folders([out], key) as (folder,):
        assert not half_written[0].exists()
        assert (folder / "model.safetensors").exists() == (key == "same")


def test_leftovers_of_other_hosts_are_not_judged(tmp_path: Path) -> None:
    theirs = tmp_path / f".out.tmp-{socket.gethostname()}x-{os.getpid()}"
    theirs.mkdir()
    with whole_folders([tmp_path / "out"], "key"):
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

"""A pass whose schemes are dealt out to several devices: the same checkpoints, the same errors, nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from compress import split
from compress.calibration import Calibration
from compress.checkpoint import weights_fingerprint
from compress.devices import parse_devices, prepare_device
from compress.errors import CompressError, InputError, NumericalError, SchemesFailedError
from compress.methods import Propagate
from compress.pipeline import compress_models
from compress.scheme import Method, Scheme
from tests.compress.tiny_models import save_model, sentences

TEXTS = Calibration(texts=tuple(sentences(12)), num_samples=12, max_seq_length=48)
SCHEMES = [
    Scheme(Method.GPTQ, 4, 32, propagate=Propagate.DENSE),
    Scheme(Method.GPTQ, 3, 32),
    Scheme(Method.SPARSEGPT, sparsity=0.5, propagate=Propagate.DENSE),
    Scheme(Method.RTN, 2, 32),
    Scheme(Method.SPARSEGPT, pattern=(2, 4)),
]
TWO = "cpu,cpu"


def prints(folder: Path) -> dict[str, str]:
    return {out.name: weights_fingerprint(out) for out in sorted(folder.iterdir())}


def test_the_checkpoints_are_those_of_one_device(llama: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    options = {"memory_gib": 1.0, "on_progress": lambda *layers: done.append(layers)}
    reports = compress_models(llama, tmp_path / "two", SCHEMES, TEXTS, device=TWO, **options)
    alone = compress_models(llama, tmp_path / "one", SCHEMES, TEXTS, device="cpu")
    assert prints(tmp_path / "two") == prints(tmp_path / "one")
    assert [report.scheme for report in reports] == SCHEMES
    assert [report.loss for report in reports] == [report.loss for report in alone]
    assert {report.num_schemes for report in reports} == {2, 3}
    assert done[-1] == (2, 2) and done == sorted(set(done))


def test_what_is_there_is_kept(llama: Path, tmp_path: Path) -> None:
    compress_models(llama, tmp_path, SCHEMES[:2], TEXTS, device="cpu")
    written = {out: out.stat().st_ino for out in tmp_path.iterdir()}
    reports = compress_models(llama, tmp_path, SCHEMES, TEXTS, device=TWO)
    assert len(reports) == len(SCHEMES) == len(list(tmp_path.iterdir()))
    assert all(out.stat().st_ino == inode for out, inode in written.items())


def test_streams_are_dealt_out_and_what_shares_one_stays_together(tmp_path: Path) -> None:
    outs = [tmp_path / str(index) for index in range(5)]
    assert split.deal(outs, SCHEMES, 1) == [[0, 2, 3, 1, 4]]
    assert split.deal(outs, SCHEMES, 2) == [[0, 2, 3], [1, 4]]
    assert split.deal(outs, SCHEMES, 9) == [[0, 2, 3], [1], [4]]
    assert split.deal(outs[:3], [SCHEMES[0]] * 3, 2) == [[0, 1, 2]]
    assert split.deal(outs, [SCHEMES[1]] * 5, 2) == [[0, 2, 4], [1, 3]]
    outs[1].mkdir()
    assert split.deal(outs, SCHEMES, 3) == [[0, 1, 2, 3], [4]]


@pytest.mark.parametrize("positions", [[1], [0, 2, 3]])
def test_one_stream_needs_no_second_process(
    positions: list[int], llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    reports = compress_models(llama, tmp_path, [SCHEMES[index] for index in positions], TEXTS, device=TWO)
    assert [report.scheme for report in reports] == [SCHEMES[index] for index in positions]


def test_a_refused_share_leaves_nothing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").mkdir()
    outs = [tmp_path / "free", tmp_path / "other", tmp_path / "taken"]
    monkeypatch.setattr(subprocess, "Popen", None)  # refused before any work
    with pytest.raises(InputError, match="taken"):
        compress_models(llama, outs, SCHEMES[:3], TEXTS, device=TWO)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_scheme_without_a_solution_takes_no_other_with_it(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = NumericalError("no solution")
    messages = [(1, 2), SchemesFailedError({tmp_path / "a": failure}), (2, 2), None]
    monkeypatch.setattr(split._Child, "receive", lambda child: messages.pop(0))
    ready = [os.pipe() for _ in range(2)]
    for _, end in ready:
        os.write(end, b"x" * 9)
    children = []
    for start, _ in ready:
        child = object.__new__(split._Child)
        child.pipe, child.done, child.is_running = start, None, True  # type: ignore[assignment]
        children.append(child)
    assert split._wait(children, lambda done, total: None) == {tmp_path / "a": failure}


@pytest.mark.parametrize("given", ["cpu,cuda:99", "cpu,", "cpu,tpu"])
def test_devices_that_are_not_there(given: str) -> None:
    with pytest.raises(InputError, match="device is") as caught:
        parse_devices(given)
    assert "must be cpu, cuda or cuda:N" in str(caught.value) or "CUDA devices" in str(caught.value)


@pytest.mark.parametrize(("name", "chosen"), [("cpu", []), ("cuda", []), ("cuda:1", [torch.device("cuda:1")])])
def test_kernels_run_on_the_device_that_was_named(
    name: str, chosen: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    prepare_device(torch.device(name))
    assert found == chosen


def start(model: Path, out: Path) -> subprocess.Popen[bytes]:
    code = """
import signal
import sys
from pathlib import Path
from compress.pipeline import compress_models
from tests.compress.test_split import SCHEMES, TEXTS
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
out = Path(sys.argv[2])
compress_models(Path(sys.argv[1]), out, SCHEMES, TEXTS, device="cpu,cpu")
"""
    command = [sys.executable, "-c", code, str(model), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers enough for a pass to be met on its way."""
    from transformers import LlamaConfig

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2, "vocab_size": 384}
    return save_model(tmp_path_factory.mktemp("deep"), LlamaConfig(num_hidden_layers=6, **sizes))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_children_end_with_their_parent_and_the_next_goes_on(
    deep: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(deep, tmp_path / "out")
    try:
        deadline = time.monotonic() + 60
        while len(children := children_of(process.pid)) < 2 or not list((tmp_path / "out").glob(".*/.progress.jsonl")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, number)
        process.wait(30)
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 30
    while any(map(is_alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    left = {path.name for path in (tmp_path / "out").glob(".*")}
    assert left
    if number is signal.SIGKILL:
        compress_models(deep, tmp_path / "out", SCHEMES, TEXTS, device=TWO)
        compress_models(deep, tmp_path / "one", SCHEMES, TEXTS, device="cpu")
        assert prints(tmp_path / "out") == prints(tmp_path / "one")


def test_a_child_that_dies_is_told_with_its_device(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = subprocess.Popen

    def broken(command: list[str], **options: object) -> object:
        return popen([command[0], "-c", "import os; os._exit(7)"], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", broken)
    with pytest.raises(CompressError, match=r"compressed on cpu ended \(exit code 7\)"):
        compress_models(llama, tmp_path / "out", SCHEMES, TEXTS, device=TWO)

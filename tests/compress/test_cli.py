"""The command line: results on stdout, progress and refusals on stderr."""

import json
from pathlib import Path

import pytest

from compress.__main__ import main
from tests.compress.tiny_models import sentences


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in sentences(8)))
    return path


def test_run_and_inspect(llama: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--method", "gptq", "--num-bits", "3", "--group-size", "32", "--sparsity", "2:4", "--asymmetric"]
    options += ["--calibration", texts, "--num-samples", "8", "--max-seq-length", "32", "--json"]
    code, out, err = call(capsys, "run", llama, tmp_path / "out", *options)
    report = json.loads(out)
    assert (code, err) == (0, "layer 1/2\nlayer 2/2\n")
    assert report["scheme"]["name"] == "gptq-2:4-w3-g32-asym"
    assert report["calibration"]["num_tokens"] == 8 * 32

    code, out, err = call(capsys, "inspect", tmp_path / "out", "--json")
    found = json.loads(out)
    assert (code, err, found["unchanged"], found["stored_bits"]) == (0, "", True, 16)
    assert found["report"] == report

    code, out, _ = call(capsys, "inspect", tmp_path / "out")
    assert code == 0 and "gptq-2:4-w3-g32-asym" in out and "(computed)" in out


def test_inspect_tells_changed_and_base_checkpoints(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(capsys, "run", llama, tmp_path / "out", "--method", "rtn", "--num-bits", "4")[0] == 0
    with (tmp_path / "out/config.json").open("a") as file:
        file.write("\n")
    _, out, _ = call(capsys, "inspect", tmp_path / "out")
    assert "CHANGED" in out and "pack-quantized" in out
    _, out, _ = call(capsys, "inspect", llama, "--json")
    assert json.loads(out)["format"] == "base model"


def test_inspect_names_a_torn_checkpoint(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "run", llama, tmp_path / "out", "--method", "rtn", "--num-bits", "4")
    weights = tmp_path / "out/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    code, out, err = call(capsys, "inspect", tmp_path / "out")
    assert (code, out) == (2, "") and "it is torn" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "gtpq", "--num-bits", "4"], "--method is gtpq, must be one of rtn, gptq.*nearest: gptq"),
        (["--methd", "rtn"], "option --methd is unknown.*nearest: --method"),
        (["--method", "rtn", "--num-bits", "9"], "--num-bits is 9, must be ternary or 2 to 8 .nearest: 8"),
        (["--method", "rtn", "--num-bits", "four"], "--num-bits is four, must be ternary or 2 to 8"),
        (["--method", "rtn", "--num-bits", "4", "--group-size", "60"], "--group-size is 60.*has 64.*nearest: 64"),
        (["--method", "gptq", "--num-bits", "4"], "--calibration is missing"),
        (["--method", "gptq", "--num-bits", "4", "--calibration", "no.txt"], "--calibration is no.txt .No such file"),
        (["--method", "magnitude", "--sparsity", "4:2"], "--sparsity is 4:2"),
        (["--method", "magnitude", "--sparsity", "nan"], "--sparsity is nan"),
        (["--method", "rtn", "--num-bits", "4", "--format", "pakced"], "--format is pakced.*nearest: packed"),
        (["--method", "rtn", "--num-bits", "3", "--format", "packed", "--platform", "cpu"], "--format.*3-bit"),
        (["--method", "rtn", "--num-bits", "4", "--num-samples", "0"], "num-samples.*greater than or equal to 1"),
        ([], "Missing option '--method'"),
    ],
)
def test_bad_requests_are_refused_in_one_line(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, out, err = call(capsys, "run", llama, tmp_path / "out", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    import re

    assert re.search(said, err), err
    assert list(tmp_path.iterdir()) == []


def test_a_short_calibration_file_says_what_there_is(
    llama: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--method", "gptq", "--num-bits", "4", "--calibration", texts]
    code, _, err = call(capsys, "run", llama, tmp_path / "out", *options)
    assert (code, err.count("\n")) == (2, 1)
    assert "--num-samples is 128, must be at most what the calibration holds: 8 items" in err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["run", "--help"], ["inspect", "--help"], []):
        code, out, _ = call(capsys, *arguments)
        assert code == 0 and "python -m compress" in out

"""The command line: results on stdout, progress and refusals on stderr."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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
    assert re.search(said, err), err
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_work_leaves_no_empty_folder(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(llama, tmp_path / "model")
    tensors = load_file(llama / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    (tmp_path / "schemes.yaml").write_text("- {method: rtn, num_bits: 4}")
    options = ["--method", "rtn", "--num-bits", "4"]
    code, out, err = call(capsys, "run", tmp_path / "model", tmp_path / "deep" / "er" / "out", *options)
    assert (code, out) == (1, "") and "model.norm.weight holds values" in err
    code, _, err = call(capsys, "grid", tmp_path / "model", tmp_path / "deep" / "out", tmp_path / "schemes.yaml")
    assert code == 1 and "error: rtn-w4-channel-sym: model.norm.weight holds values" in err
    assert {path.name for path in tmp_path.iterdir()} == {"model", "schemes.yaml"}


def test_a_short_calibration_file_says_what_there_is(
    llama: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--method", "gptq", "--num-bits", "4", "--calibration", texts]
    code, _, err = call(capsys, "run", llama, tmp_path / "out", *options)
    assert (code, err.count("\n")) == (2, 1)
    assert "--num-samples is 128, must be at most what the calibration holds: 8 items" in err


GRID = """
- {method: gptq, num_bits: [3, 4], group_size: 32}
- {method: sparsegpt, sparsity: 2:4, name: half, format: dequantized}
- {method: rtn, num_bits: 4, group_size: 32}
"""
NAMES = ["gptq-w3-g32-sym", "gptq-w4-g32-sym", "half", "rtn-w4-g32-sym"]


def test_grid_makes_a_folder_a_scheme_once(
    llama: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schemes, out_dir = tmp_path / "schemes.yaml", tmp_path / "grid"
    schemes.write_text(GRID)
    options = ["--calibration", texts, "--num-samples", "8", "--max-seq-length", "32", "--json"]
    code, out, err = call(capsys, "grid", llama, out_dir, schemes, *options)
    found = json.loads(out)
    assert (code, err, found["failed"]) == (0, "layer 1/2\nlayer 2/2\n", {})
    assert list(found["checkpoints"]) == NAMES == sorted(path.name for path in out_dir.iterdir())
    assert [report["format"] for report in found["checkpoints"].values()] == ["dequantized", "packed"] * 2
    assert found["checkpoints"]["half"]["scheme"]["pattern"] == [2, 4]

    schemes.write_text(GRID.replace("[3, 4]", "[2, 3, 4]"))
    times = {path: path.stat().st_mtime_ns for path in out_dir.glob("*/*")}
    code, out, err = call(capsys, "grid", llama, out_dir, schemes, *options[:-1])
    assert (code, err, out.count("\n")) == (0, "layer 1/2\nlayer 2/2\n", 6)  # a head and five schemes, one of them new
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert call(capsys, "grid", llama, out_dir, schemes, *options[:-1])[2] == ""  # nothing is left to do

    code, _, err = call(capsys, "grid", llama, out_dir, schemes, *options[:-1], "--seed", "1", "--num-samples", "7")
    assert (code, err.count("\n")) == (2, 1) and "of the same request" in err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- {method: gptq, num_bits: 4}\n- {method: rtn, num_bits: 9}", "entry 1: num_bits is 9, must be .*nearest: 8"),
        ("- {method: rtn, num_bit: 4}", "entry 0: num_bit is unknown, must be one of name, .*nearest: num_bits"),
        ("- {method: rtn, num_bits: 4, group_size: 60}", "entry 0: group_size is 60.*nearest: 64"),
        ("- {method: rtn, num_bits: 4, name: a}\n- {method: rtn, num_bits: 4, name: a}", "entry 1: name is a.*entry 0"),
        ("- {method: rtn, num_bits: 4, name: ../a}", "entry 0: name is ../a, must be a folder's name"),
        ("- {method: rtn, num_bits: 3, format: packed}", "entry 0: format is packed.*3-bit"),
        ("- {method: rtn, num_bits: 4, format: pakced}", "entry 0: format is pakced.*nearest: packed"),
        ("- {num_bits: 4}", "entry 0: method is missing"),
        ("- {method: magnitude, pattern: [2, 4]}", "entry 0: pattern is unknown"),
        ("- {method: magnitude, sparsity: 4:2}", "entry 0: sparsity is 4:2"),
        ("- {method: magnitude, sparsity: .nan}", "entry 0: sparsity is nan"),
        ("- rtn", "entry 0 is rtn, must be a mapping"),
        ("method: rtn", "schemes.yaml .a dict., must be a list"),
        ("", "schemes.yaml .empty., must be a list"),
        ("- {method: rtn", "schemes.yaml, but line 1 is not readable"),
        ("- {method: gptq, num_bits: 4}", "entry 0: calibration is missing"),
        (None, "schemes.yaml .No such file"),
    ],
)
def test_grids_that_cannot_be_met_are_refused(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, said: str
) -> None:
    schemes = tmp_path / "schemes.yaml"
    if content is not None:
        schemes.write_text(content)
    code, out, err = call(capsys, "grid", llama, tmp_path / "grid", schemes, "--platform", "cpu")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(said, err), err
    assert not (tmp_path / "grid").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["run", "--help"], ["grid", "--help"], ["inspect", "--help"], []):
        code, out, _ = call(capsys, *arguments)
        assert code == 0 and "python -m compress" in out

"""From a model folder to a compressed one that transformers loads, on tiny random models."""

import json
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig

from compress.activations import Activations
from compress.calibration import Calibration
from compress.decoder import BLOCKS, Decoder, pass_block
from compress.errors import (
    CalibrationError,
    FormatError,
    InputError,
    ModelError,
    NumericalError,
    SchemeError,
    SchemesFailedError,
)
from compress.families import layer_stages, linear_shapes, shapes_from_config
from compress.forward import measure_layer
from compress.hessian import Factor, attempt_factor
from compress.job import check_job
from compress.methods import Propagate
from compress.pipeline import _pass_key, compress_model, compress_models
from compress.report import load_report
from compress.scheme import CheckpointFormat, Method, Scheme
from compress.size import deployable_size
from compress.solve import solve_requests
from tests.compress.tiny_models import sentences

TEXTS = Calibration(texts=tuple(sentences(12)), num_samples=12, max_seq_length=48)
SCHEMES = [
    Scheme(Method.RTN, 2, 32),
    Scheme(Method.RTN, 4, 32, sparsity=0.5),
    Scheme(Method.GPTQ, 4, 32),
    Scheme(Method.GPTQ, 3, symmetric=False),
    Scheme(Method.GPTQ, 4, 16, act_order=False),
    Scheme(Method.SPARSEGPT, sparsity=0.6),
    Scheme(Method.SPARSEGPT, 4, 32, symmetric=False, pattern=(2, 4)),
    Scheme(Method.MAGNITUDE, pattern=(2, 4)),
]


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def logits(folder: Path, **options: object) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, **options).eval().float()
    tokens = AutoTokenizer.from_pretrained(folder)(sentences(1), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_checkpoint_is_what_its_report_says(
    scheme: Scheme, family: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model, out = request.getfixturevalue(family), tmp_path / "out"
    calls: list[tuple[int, int]] = []
    report = compress_model(
        model, out, scheme, TEXTS, platform="cpu", device="cpu", on_progress=lambda *at: calls.append(at)
    )
    assert calls == [(1, 2), (2, 2)]
    assert load_report(out) == report
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    assert (out / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert (out / "generation_config.json").exists()

    shapes = shapes_from_config(config_of(model))
    linear, tensors = linear_shapes(shapes), load_file(out / "model.safetensors")
    original = load_file(model / "model.safetensors")
    for name in shapes.keys() - {f"{layer}.weight" for layer in linear}:
        assert torch.equal(tensors[name], original[name]), name
    assert len(report.layers) == len(linear)
    assert report.loss is not None and all(layer.loss is not None and 0 < layer.loss < 1 for layer in report.layers)

    packed = scheme.num_bits == 4
    assert report.format == ("packed" if packed else "dequantized")
    assert report.num_bytes == deployable_size(shapes, scheme).num_bytes
    assert report.size_source == ("measured" if packed else "computed")
    if packed:
        assert report.num_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return
    assert config_of(out).get("quantization_config") is None
    assert report.served_gb * 1e9 >= 2 * report.num_parameters
    weights = {layer: tensors[f"{layer}.weight"].float() for layer in linear}
    for layer in report.layers:
        zeros = float((weights[layer.name] == 0).float().mean())
        assert zeros >= layer.sparsity - 1e-6
        assert layer.sparsity == pytest.approx(scheme.sparsity, abs=1e-3)
        if scheme.num_bits:
            groups = weights[layer.name].reshape(-1, scheme.group_size or weights[layer.name].shape[1])
            assert max(len(group.unique()) for group in groups) <= 2**scheme.num_bits


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_and_dequantized_twins_are_one_model(
    family: str, symmetric: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(family)
    scheme = Scheme(Method.SPARSEGPT, 4, 32, symmetric=symmetric, sparsity=0.3)
    outs = {form: tmp_path / form for form in (CheckpointFormat.PACKED, CheckpointFormat.DEQUANTIZED)}
    reports = {form: compress_model(model, out, scheme, TEXTS, format=form) for form, out in outs.items()}
    packed, dense = reports.values()
    assert packed.layers == dense.layers
    assert packed.num_bytes == dense.num_bytes
    assert packed.served_gb < dense.served_gb
    read = logits(outs[CheckpointFormat.PACKED], quantization_config=CompressedTensorsConfig(run_compressed=False))
    torch.testing.assert_close(read, logits(outs[CheckpointFormat.DEQUANTIZED]), rtol=0, atol=1e-3)
    assert (read - logits(model)).abs().max() > 0.02  # the comparison can tell models apart


def test_layers_are_walked_as_transformers_runs_them(llama: Path, qwen3: Path) -> None:
    rows = [list(range(5, 5 + length)) for length in (7, 19, 12)]
    for folder in (llama, qwen3):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        decoder = Decoder(folder, torch.float32, torch.device("cpu"))
        batches = list(decoder.embed(rows))
        for index in range(decoder.num_layers):
            layer = decoder.layer(index, decoder.read_layer(index))
            for block in BLOCKS:
                batches = [pass_block(layer, block, batch)[1] for batch in batches]
        with torch.no_grad():
            ours = [batch.tokens(model.lm_head(model.model.norm(batch.hidden))) for batch in batches]
            alone = [model(torch.tensor([row])).logits[0] for row in sorted(rows, key=len)]
        torch.testing.assert_close(torch.cat(ours), torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_hessians_are_measured_behind_the_compressed_modules(llama: Path, tmp_path: Path) -> None:
    """The second layer's loss depends on what the first layer became."""
    mild = compress_model(llama, tmp_path / "a", Scheme(Method.GPTQ, 8, 32), TEXTS)
    harsh = compress_model(llama, tmp_path / "b", Scheme(Method.GPTQ, 2, 32), TEXTS)
    assert mild.loss is not None and harsh.loss is not None and mild.loss < harsh.loss / 100
    dense = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    assert dense.model.layers[0].self_attn.q_proj.weight.shape == (64, 64)


def test_the_first_token_counts_as_often_as_asked_where_attention_reads(llama: Path) -> None:
    rows = [list(range(5, 5 + length)) for length in (7, 19, 12)]
    decoder = Decoder(llama, torch.float32, torch.device("cpu"))
    layer = decoder.layer(0, decoder.read_layer(0))
    units = [unit for stage in layer_stages(shapes_from_config(config_of(llama)))[0] for unit in stage]
    found = {}
    for weight in (1.0, 9.0):
        batches = list(decoder.embed(rows, weight))
        activations = Activations(decoder.device, decoder.device, None)
        found[weight] = measure_layer(layer, activations, batches, units, leave=False)
    with torch.no_grad():
        firsts = layer.input_layernorm(
            decoder.reader.read("model.embed_tokens.weight")[[row[0] for row in rows]].float()
        )
    for unit in units:
        plain, counted = (found[weight][unit].own.total for weight in (1.0, 9.0))
        expected = plain + 8 * firsts.T @ firsts if unit[0].endswith("q_proj") else plain
        torch.testing.assert_close(counted, expected)


def test_calibrated_methods_beat_their_data_free_twins(llama: Path, tmp_path: Path) -> None:
    pairs = [
        (Scheme(Method.GPTQ, 3, 32), Scheme(Method.RTN, 3, 32)),
        (Scheme(Method.SPARSEGPT, sparsity=0.5), Scheme(Method.MAGNITUDE, sparsity=0.5)),
    ]
    for better, plain in pairs:
        losses = [compress_model(llama, tmp_path / s.name, s, TEXTS).loss for s in (better, plain)]
        assert losses[0] < 0.8 * losses[1]


def test_the_same_request_gives_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    scheme = Scheme(Method.GPTQ, 3, 32)
    first, second = (compress_model(llama, tmp_path / name, scheme, TEXTS) for name in "ab")
    assert first.weights_fingerprint == second.weights_fingerprint
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    other = compress_model(llama, tmp_path / "c", scheme, replace(TEXTS, max_seq_length=16))
    assert other.weights_fingerprint != first.weights_fingerprint


GRID = [
    Scheme(Method.GPTQ, 2, 32),
    Scheme(Method.GPTQ, 4, 32),
    Scheme(Method.GPTQ, 3, 16, symmetric=False, act_order=False),
    Scheme(Method.GPTQ, 3, dampening_frac=0.1),
    Scheme(Method.SPARSEGPT, sparsity=0.5),
    Scheme(Method.SPARSEGPT, 4, 32, pattern=(2, 4)),
    Scheme(Method.SPARSEGPT, 3, 64, sparsity=0.3, act_order=True),
    Scheme(Method.RTN, 3, 32),
    Scheme(Method.MAGNITUDE, sparsity=0.5),
]


def of_both_kinds(schemes: list[Scheme], propagate: Propagate) -> list[Scheme]:
    return [replace(scheme, propagate=propagate) if scheme.needs_calibration else scheme for scheme in schemes]


@pytest.mark.parametrize("propagate", Propagate)
def test_schemes_of_one_pass_are_those_of_passes_of_their_own(
    llama: Path, tmp_path: Path, propagate: Propagate
) -> None:
    """A weight in a thousand may round the other way, because products over more rows are summed in another order."""
    schemes = of_both_kinds(GRID, propagate)
    together = compress_models(llama, tmp_path / "grid", schemes, TEXTS, formats=CheckpointFormat.DEQUANTIZED)
    assert [report.scheme for report in together] == schemes
    assert {path.name for path in (tmp_path / "grid").iterdir()} == {scheme.name for scheme in schemes}
    for report in together:
        scheme = report.scheme
        out = tmp_path / "alone" / scheme.name
        alone = compress_model(llama, out, scheme, TEXTS, format=CheckpointFormat.DEQUANTIZED)
        assert (report.num_schemes, alone.num_schemes) == (len(GRID), 1)
        assert report.loss == pytest.approx(alone.loss, rel=1e-2)
        assert (report.num_bytes, report.sparsity, report.fallbacks) == (
            alone.num_bytes,
            pytest.approx(alone.sparsity),
            alone.fallbacks,
        )
        ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "grid" / scheme.name, out))
        changed = sum(int((ours[name] != theirs[name]).sum()) for name in ours)
        assert changed <= 1e-3 * report.num_parameters


def test_a_scheme_without_a_solution_takes_no_other_with_it(llama: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(hessian: torch.Tensor, dampening_frac: float, num_raised: int = 0) -> Factor:
        made = attempt_factor(hessian, dampening_frac, num_raised)
        return replace(made, is_sound=made.is_sound & (dampening_frac not in (0.5, 5)))

    monkeypatch.setattr("compress.hessian.attempt_factor", refuse)
    schemes = [Scheme(Method.GPTQ, 3, 32), Scheme(Method.GPTQ, 3, 32, dampening_frac=0.5), Scheme(Method.RTN, 3, 32)]
    with pytest.raises(SchemesFailedError, match=r"damp0.5: model.layers.0 .*cannot be factored") as caught:
        compress_models(llama, tmp_path, schemes, TEXTS)
    assert list(caught.value.failures) == [tmp_path / schemes[1].name]
    assert {path.name for path in tmp_path.iterdir()} == {schemes[0].name, schemes[2].name}
    with pytest.raises(NumericalError, match=r"^model.layers.0 .*cannot be factored"):
        compress_model(llama, tmp_path / "alone", schemes[1], TEXTS)


def test_schemes_solved_one_after_the_other_are_those_solved_together(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schemes = of_both_kinds(GRID[:4], Propagate.DENSE)
    together = compress_models(llama, tmp_path / "together", schemes, TEXTS)
    monkeypatch.setattr("compress.walk.SOLVED_WEIGHTS", 1)
    apart = compress_models(llama, tmp_path / "apart", schemes, TEXTS)
    for one, other in zip(together, apart, strict=True):
        assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def kill_a_pass(code: str, *request: object) -> None:
    """Run code, which kills itself, in a process that reads compress_models' arguments from its input."""
    given = pickle.dumps((*request, TEXTS))
    killed = subprocess.run([sys.executable, "-c", code], input=given, cwd=Path.cwd(), check=False)
    assert killed.returncode == -signal.SIGKILL


def test_a_killed_pass_goes_on_behind_its_last_layer_with_the_same_bytes(llama: Path, tmp_path: Path) -> None:
    schemes = [*GRID[5:8], *of_both_kinds([*GRID[:2], GRID[5]], Propagate.DENSE)]
    assert {scheme.propagate for scheme in schemes} == set(Propagate)
    whole = compress_models(llama, tmp_path / "whole", schemes, TEXTS)
    code = (
        "import os, pickle, signal, sys\n"
        "from compress import pipeline, progress\n"
        "finish, left = progress.PartialCheckpoint.finish_layer, [9]\n"
        "def die(*arguments):\n"
        "    finish(*arguments); left[0] -= 1; left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "progress.PartialCheckpoint.finish_layer = die\n"
        "pipeline.compress_models(*pickle.load(sys.stdin.buffer))\n"
    )
    kill_a_pass(code, llama, tmp_path / "grid", schemes)  # in the second of two layers, which three of six schemes have
    left = list((tmp_path / "grid").iterdir())
    assert len(left) == len(schemes) and all(path.name.startswith(".") for path in left)
    solved: list[str] = []

    def count(weights, *arguments):
        solved.extend(weights)
        return solve_requests(weights, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.walk.solve_requests", count)
        again = compress_models(llama, tmp_path / "grid", schemes, TEXTS, memory_gib=0)
    assert solved and all(name.startswith("model.layers.1.") for name in solved)
    assert {path.name for path in (tmp_path / "grid").iterdir()} == {scheme.name for scheme in schemes}
    assert [report.weights_fingerprint for report in again] == [report.weights_fingerprint for report in whole]
    assert [report.layers for report in again] == [report.layers for report in whole]
    assert {report.activations for report in again} == {"disk"}
    assert {report.activations for report in whole} == {"device"}


def test_a_pass_is_gone_on_with_only_by_its_like(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the number of threads decides in which order sums are made."""

    def key() -> str:
        formats = [CheckpointFormat.DEQUANTIZED]
        return _pass_key(check_job(llama, [tmp_path / "out"], GRID[:1], TEXTS, formats=formats, device="cpu"))

    before = key()
    assert key() == before
    threads = torch.get_num_threads() + 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert key() != before


def test_what_is_there_is_kept_and_what_is_of_another_request_is_refused(llama: Path, tmp_path: Path) -> None:
    schemes = [Scheme(Method.GPTQ, 3, 32), Scheme(Method.RTN, 3, 32)]
    first = compress_models(llama, tmp_path, schemes, TEXTS)
    calls: list[tuple[int, int]] = []
    assert compress_models(llama, tmp_path, schemes, TEXTS, on_progress=lambda *at: calls.append(at)) == first
    assert calls == []
    other = replace(TEXTS, num_samples=11)
    with pytest.raises(InputError, match=r"gptq-w3-g32-sym, must be .* of the same request"):
        compress_models(llama, tmp_path, schemes, other)
    assert compress_models(llama, tmp_path, schemes[1:], other) == first[1:]  # its bytes depend on no calibration


def test_a_disk_without_room_leaves_nothing(llama: Path, tmp_path: Path) -> None:
    code = (
        "import pickle, resource, signal, sys; from compress.pipeline import compress_models\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "try: compress_models(*pickle.load(sys.stdin.buffer))\n"
        "except OSError as error: print(error)\n"
    )
    request = pickle.dumps((llama, tmp_path, [Scheme(Method.RTN, 3, 32), Scheme(Method.RTN, 4, 32)]))
    done = subprocess.run([sys.executable, "-c", code], input=request, cwd=Path.cwd(), check=True, capture_output=True)
    assert b"File too large, where 0." in done.stdout and b"GB are wanted: " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_data_free_methods_need_no_calibration(llama: Path, tmp_path: Path) -> None:
    report = compress_model(llama, tmp_path / "out", Scheme(Method.RTN, 4, 32))
    assert (report.loss, report.calibration) == (None, None)
    assert all(layer.weight_error > 0 and layer.loss is None for layer in report.layers)


@pytest.mark.parametrize(
    ("scheme", "options", "error", "said"),
    [
        (Scheme(Method.GPTQ, 4, 48), {}, SchemeError, "group_size is 48.*nearest"),
        (Scheme(Method.MAGNITUDE, pattern=(2, 128)), {}, SchemeError, "sparsity is 2:128"),
        (Scheme(Method.GPTQ, 4, 32), {"calibration": None}, CalibrationError, "calibration is missing"),
        (Scheme(Method.RTN, 3, 32), {"format": CheckpointFormat.PACKED}, FormatError, "no kernel for packed 3-bit"),
        (Scheme(Method.RTN, 4, 32), {"format": CheckpointFormat.PACKED, "platform": "cuda"}, FormatError, "is 64 x 64"),
        (Scheme(Method.RTN, 4, 32), {"device": "tpu"}, InputError, "device is tpu"),
        (Scheme(Method.RTN, 4, 32), {"device": "cuda:99"}, InputError, "device is cuda:99"),
        (
            Scheme(Method.GPTQ, 4, 32),
            {"calibration": Calibration(texts=(" ".join(sentences(20)),), num_samples=1)},
            CalibrationError,
            "max_seq_length is .*at most 256",
        ),
    ],
)
def test_requests_that_cannot_be_met_leave_nothing(
    llama: Path, tmp_path: Path, scheme: Scheme, options: dict, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        compress_model(llama, tmp_path / "out", scheme, **{"calibration": TEXTS, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_place_below_a_file_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"OUT is .*rtn-w4-g32-sym, must be in a folder: .*file is a file"):
        compress_models(llama, tmp_path / "file" / "deep", [Scheme(Method.RTN, 4, 32)])
    with pytest.raises(InputError, match="memory_gib is inf"):
        compress_models(llama, tmp_path / "grid", [Scheme(Method.RTN, 4, 32)], memory_gib=float("inf"))


def test_an_existing_folder_is_never_written_over(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist yet"):
        compress_model(llama, tmp_path, Scheme(Method.RTN, 4, 32))


@pytest.mark.parametrize(
    ("name", "change", "error", "said"),
    [
        ("model.layers.1.mlp.up_proj.weight", lambda t: t[:-1], ModelError, "up_proj.weight is .127, 64."),
        ("model.norm.weight", lambda t: None, ModelError, "model.norm.weight is missing"),
        ("model.norm.weight", lambda t: t.to(torch.int32), ModelError, "model.norm.weight is I32, must be one of BF16"),
        ("model.layers.1.mlp.up_proj.weight", lambda t: t * float("nan"), NumericalError, "up_proj.*not finite"),
        ("model.embed_tokens.weight", lambda t: t * float("inf"), NumericalError, "model.embed_tokens.*not finite"),
        ("model.norm.weight", lambda t: t / 0, NumericalError, "model.norm.weight holds .* not finite"),
        ("model.layers.1.input_layernorm.weight", lambda t: t / 0, NumericalError, "layers.1.input_layernorm.*not fin"),
    ],
)
@pytest.mark.parametrize("method", [Method.GPTQ, Method.RTN])
def test_broken_models_are_named(
    llama: Path, tmp_path: Path, method: Method, name: str, change, error: type, said: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(llama, model)
    tensors = load_file(model / "model.safetensors")
    tensors[name] = change(tensors[name])
    kept = {key: tensor.contiguous() for key, tensor in tensors.items() if tensor is not None}
    save_file(kept, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(error, match=said):
        compress_model(model, tmp_path / "out", Scheme(method, 4, 32), TEXTS)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_broken_weight_is_no_failure_of_a_scheme_that_leaves_it(llama: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(llama, model)
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    schemes = [
        Scheme(Method.RTN, 4, 32, overrides={"layers.1.mlp": {"skip": True}}),
        Scheme(Method.ALPHAPRUNING, sparsity=0.5),
        Scheme(Method.GPTQ, average_bits=6.0, group_size=32),
        Scheme(Method.RTN, 4, 32),
    ]
    with pytest.raises(SchemesFailedError) as caught:
        compress_models(model, tmp_path / "grid", schemes, TEXTS)
    assert list(caught.value.failures) == [tmp_path / "grid" / scheme.name for scheme in schemes[1:]]
    assert all("model.layers.1.mlp.up_proj holds values" in str(error) for error in caught.value.failures.values())
    assert [path.name for path in (tmp_path / "grid").iterdir()] == [schemes[0].name]
    for scheme in schemes[1:3]:  # nothing is left to solve after planning
        with pytest.raises(NumericalError, match=r"^model.layers.1.mlp.up_proj holds values"):
            compress_model(model, tmp_path / "alone", scheme, TEXTS)
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize("num_published", [0, 1])
def test_a_kill_while_checkpoints_are_published_costs_no_layer(llama: Path, tmp_path: Path, num_published: int) -> None:
    schemes = [Scheme(Method.GPTQ, 3, 32), Scheme(Method.GPTQ, 4, 32, propagate="dense"), Scheme(Method.RTN, 3, 32)]
    whole = compress_models(llama, tmp_path / "whole", schemes, TEXTS)
    code = (
        "import os, pickle, signal, sys\n"
        "from compress import pipeline\n"
        f"publish, left = pipeline.publish, [{num_published}]\n"
        "def die(*arguments):\n"
        "    left[0] or os.kill(os.getpid(), signal.SIGKILL); publish(*arguments); left[0] -= 1\n"
        "pipeline.publish = die\n"
        "pipeline.compress_models(*pickle.load(sys.stdin.buffer))\n"
    )
    kill_a_pass(code, llama, tmp_path / "grid", schemes)
    assert sum(path.name[0] != "." for path in (tmp_path / "grid").iterdir()) == num_published
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compress.walk.solve_requests", None)  # nothing is solved
        again = compress_models(llama, tmp_path / "grid", schemes, TEXTS)
    assert [report.weights_fingerprint for report in again] == [report.weights_fingerprint for report in whole]
    assert [report.layers for report in again] == [report.layers for report in whole]
    assert {path.name for path in (tmp_path / "grid").iterdir()} == {scheme.name for scheme in schemes}
    assert not list((tmp_path / "grid").glob("*/.*"))
    assert {report.activations for report in again[num_published:]} == {None}  # no token passes

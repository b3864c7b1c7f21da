"""How a pocket reasoner does, whole and compressed, sampled as the sweep samples, on questions that no training saw."""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from compress.calibration import Calibration
from compress.pipeline import compress_model
from compress.scheme import CheckpointFormat, Method, Scheme
from models.data import EOS, PAD, TASKS, held_out, prompt_text
from models.modeling import KeyValueCache, PocketModel, load_model

MAX_TOKENS = 256
TEMPERATURE, TOP_P = 0.6, 0.95
GROUP_SIZE = 64
SCHEMES = (
    *(Scheme(Method.RTN, num_bits=bits, group_size=GROUP_SIZE) for bits in (8, 4, 3, 2)),
    *(Scheme(Method.RTN, num_bits=bits) for bits in (4, 3)),
    *(Scheme(Method.GPTQ, num_bits=bits, group_size=GROUP_SIZE) for bits in (4, 3, 2)),
    Scheme(Method.GPTQ, num_bits=3),
    *(Scheme(Method.MAGNITUDE, sparsity=sparsity) for sparsity in (0.4, 0.5, 0.6)),
    *(Scheme(Method.SPARSEGPT, sparsity=sparsity) for sparsity in (0.4, 0.5, 0.6)),
    Scheme(Method.SPARSEGPT, pattern=(2, 4)),
)


@dataclass(frozen=True)
class Question:
    """answer: what must stand after the last </think>."""

    task: str
    text: str
    answer: str


@dataclass(frozen=True)
class Score:
    """Fractions of the questions of one task, and the mean number of tokens written."""

    accuracy: float
    mean_tokens: float
    truncated: float


def load_questions(num_problems: int, seed: int, bbh: Path | None) -> list[Question]:
    """num_problems of each task, and all items of BBH's Temporal Sequences if its file is given."""
    questions = [
        Question(name, item.problem.question, item.completion.rpartition("</think>\n")[2])
        for name in TASKS
        for item in held_out(name, num_problems, seed)
    ]
    if bbh is not None:
        examples = json.loads(bbh.read_text())["examples"]
        questions += [Question("bbh", example["input"], example["target"]) for example in examples]
    return questions


def evaluate(model: PocketModel, tokenizer: Tokenizer, questions: Sequence[Question], seed: int) -> dict[str, Score]:
    """Answer every question once and score each task."""
    prompts = [tokenizer.encode(prompt_text(question.text)).ids for question in questions]
    eos = tokenizer.token_to_id(EOS)
    completions = generate(model, prompts, eos=eos, pad=tokenizer.token_to_id(PAD), seed=seed)
    scores = {}
    for task in dict.fromkeys(question.task for question in questions):
        pairs = [(q, c) for q, c in zip(questions, completions, strict=True) if q.task == task]
        finished = [completion[-1] == eos for _, completion in pairs]
        correct = [
            done
            and tokenizer.decode(completion, skip_special_tokens=True).rpartition("</think>")[2].strip() == q.answer
            for (q, completion), done in zip(pairs, finished, strict=True)
        ]
        mean_tokens = sum(len(completion) for _, completion in pairs) / len(pairs)
        scores[task] = Score(sum(correct) / len(pairs), mean_tokens, 1 - sum(finished) / len(pairs))
    return scores


def generate(
    model: PocketModel, prompts: Sequence[Sequence[int]], *, eos: int, pad: int, seed: int, max_rows: int = 640
) -> list[list[int]]:
    """Sampled completions, in the order of the prompts; one that ends holds `eos` as its last token."""
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    completions: dict[int, list[int]] = {}
    for start in range(0, len(order), max_rows):
        chunk = order[start : start + max_rows]
        rows = _generate_batch(model, [prompts[index] for index in chunk], eos, pad, generator)
        completions |= dict(zip(chunk, rows, strict=True))
    return [completions[index] for index in range(len(prompts))]


@torch.inference_mode()
@sdpa_kernel(SDPBackend.MATH)  # cuDNN's kernel would be planned anew for every length
def _generate_batch(
    model: PocketModel, prompts: Sequence[Sequence[int]], eos: int, pad: int, generator: torch.Generator
) -> list[list[int]]:
    """Prompts are padded on the left; rotary positions are relative, so the shift changes nothing."""
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    tokens = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    visible = torch.tensor(
        [[0] * (width - len(p)) + [1] * (len(p) + MAX_TOKENS) for p in prompts], device=device
    ).bool()
    positions = torch.arange(width + MAX_TOKENS, device=device)[None]
    cache = KeyValueCache(model.shape, len(prompts), width + MAX_TOKENS, next(model.parameters()))
    causal = torch.ones(width, width, device=device).tril().bool()
    # A padded position sees itself alone, since a row of nothing visible has no softmax.
    mask = (causal & visible[:, None, :width]) | torch.eye(width, device=device).bool()
    hidden = model(tokens, positions[:, :width], mask[:, None], cache)[:, -1:]
    written: list[Tensor] = []
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    while len(written) < MAX_TOKENS:
        token = _sample(model.logits(hidden[:, -1]).float(), generator)
        token = token.where(~finished, eos)
        written.append(token)
        finished = finished | (token == eos)
        if len(written) % 16 == 0 and bool(finished.all()):
            break
        end = cache.length + 1
        hidden = model(token[:, None], positions[:, end - 1 : end], visible[:, None, None, :end], cache)
    return [_cut(row, eos) for row in torch.stack(written, 1).tolist()]


def _cut(tokens: list[int], eos: int) -> list[int]:
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens


def _sample(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token a row at TEMPERATURE from the smallest set of tokens that holds TOP_P of the probability."""
    probabilities, ids = (logits / TEMPERATURE).softmax(-1).sort(-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= TOP_P, 0.0)
    choice = torch.multinomial(probabilities, 1, generator=generator)
    return ids.gather(-1, choice)[:, 0]


def make_calibration(num_samples: int = 256) -> Calibration:
    """Train items of all tasks, with the teacher's thinking."""
    items = [item for task in TASKS.values() for item in task.generate("train", num_samples // len(TASKS), seed=1)]
    conversations = tuple(
        ({"role": "user", "content": item.problem.question}, {"role": "assistant", "content": item.completion})
        for item in items
    )
    return Calibration(conversations=conversations, num_samples=len(items), max_seq_length=512)


def break_down(
    folder: Path, questions: Sequence[Question], device: str, schemes: Sequence[Scheme]
) -> Iterator[Mapping[str, object]]:
    """The model in `folder` as it is and under each scheme: one record each, as soon as it is known."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    calibration = make_calibration()
    for scheme in (None, *schemes):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as temporary:
            checkpoint = folder
            if scheme is not None:
                checkpoint = Path(temporary) / scheme.name
                needed = calibration if scheme.needs_calibration else None
                dequantized = CheckpointFormat.DEQUANTIZED
                compress_model(folder, checkpoint, scheme, needed, format=dequantized, device=device)
            scores = evaluate(load_model(checkpoint, device), tokenizer, questions, seed=0)
        yield {
            "model": folder.name,
            "scheme": scheme.name if scheme else "bf16",
            "seconds": round(time.perf_counter() - started, 1),
            "scores": {task: vars(score) for task, score in scores.items()},
        }

"""Reports and progress as lines for people; --json prints the reports themselves."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from compress.distillation import DistillationReport
from compress.inspection import Inspection
from compress.report import CompressionReport


def show_progress(done: int, total: int) -> None:
    """Layers on stderr, one line on a terminal."""
    end = "" if sys.stderr.isatty() and done < total else "\n"
    start = "\r" if sys.stderr.isatty() else ""
    print(f"{start}layer {done}/{total}", end=end, file=sys.stderr, flush=True)


def render_report(report: CompressionReport) -> str:
    loss = "not measured" if report.loss is None else f"{report.loss:.3g} (mean over {len(report.layers)} weights)"
    fallbacks = ", ".join(f"{cause} {count}" for cause, count in report.fallbacks.items())
    lines = [
        ("scheme", report.scheme.name if report.scheme else "none: not compressed"),
        ("format", report.format),
        ("effective bits", f"{report.effective_bits:.3f} ({report.size_source})"),
        ("checkpoint", f"{report.checkpoint_gb:.6f} GB packed; the folder served holds {report.served_gb:.6f} GB"),
        ("relative loss", loss),
        ("pruned", f"{report.sparsity:.4f} of the compressed weights"),
        ("fallbacks", fallbacks),
        ("took", f"{report.seconds:.1f} s on {report.device}, {report.peak_memory_gib:.2f} GiB at the peak"),
        ("fingerprint", report.weights_fingerprint[:16]),
        *_distillation_lines(report.distillation),
    ]
    return "\n".join(f"{label:<15} {value}" for label, value in lines)


def show_step(done: int, total: int, loss: float) -> None:
    """Training steps on stderr: about twenty lines, or one that changes on a terminal."""
    if sys.stderr.isatty():
        print(
            f"\rstep {done}/{total}, loss {loss:.4f}  ", end="\n" if done == total else "", file=sys.stderr, flush=True
        )
    elif done in (1, total) or done % -(-total // 20) == 0:
        print(f"step {done}/{total}, loss {loss:.4f}", file=sys.stderr, flush=True)


def _distillation_lines(found: DistillationReport | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    teacher = f", teacher {found.teacher}" if found.teacher else ""
    return [
        (
            "held-out loss",
            f"{found.loss_before:.4f} -> {found.loss_after:.4f} nats a token ({found.num_held_out} traces, "
            f"{found.num_held_out_tokens:,} tokens of answers)",
        ),
        (
            "learned",
            f"from {found.num_traces} traces of {found.traces} ({found.num_left_out} left out){teacher}: "
            f"{found.num_steps} steps, {found.num_tokens:,} tokens, {found.num_answer_tokens:,} of them answers",
        ),
        ("trained", f"{found.num_trained:,}; {found.num_masked:,} zeros and {found.num_frozen:,} on grids stay"),
        ("training took", f"{found.seconds:.1f} s on {found.device}, {found.peak_memory_gib:.2f} GiB at the peak"),
    ]


def render_inspection(found: Inspection) -> str:
    line = (
        f"{found.checkpoint}: {found.model_type}, {found.format}, {found.num_parameters:,} parameters, "
        f"{found.num_tensors} tensors, {found.served_gb:.6f} GB, {found.stored_bits:.3f} bits a parameter as stored"
    )
    if found.report is None:
        return line
    state = "as the report was written for" if found.unchanged else "CHANGED since the report"
    return f"{line}\n{render_report(found.report)}\nweights: {state}"


def render_grid(reports: Mapping[str, CompressionReport | None]) -> str:
    width = max(map(len, reports), default=4)
    lines = [f"{'name':<{width}}  format       effective bits  pruned  relative loss  packed GB"]
    for name, report in reports.items():
        assert report is not None  # a checkpoint that compress made has one
        loss = "-" if report.loss is None else f"{report.loss:.3g}"
        lines.append(
            f"{name:<{width}}  {report.format:<11}  {report.effective_bits:>14.3f}  {report.sparsity:>6.3f}  "
            f"{loss:>13}  {report.checkpoint_gb:>9.6f}"
        )
    return "\n".join(lines)

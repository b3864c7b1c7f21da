"""Reports and progress as lines for people; --json prints the reports themselves."""

from __future__ import annotations

import sys
from collections.abc import Mapping

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
        ("scheme", report.scheme.name),
        ("format", report.format),
        ("effective bits", f"{report.effective_bits:.3f} ({report.size_source})"),
        ("checkpoint", f"{report.checkpoint_gb:.6f} GB packed; the folder served holds {report.served_gb:.6f} GB"),
        ("relative loss", loss),
        ("pruned", f"{report.sparsity:.4f} of the compressed weights"),
        ("fallbacks", fallbacks),
        ("took", f"{report.seconds:.1f} s on {report.device}, {report.peak_memory_gib:.2f} GiB at the peak"),
        ("fingerprint", report.weights_fingerprint[:16]),
    ]
    return "\n".join(f"{label:<15} {value}" for label, value in lines)


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

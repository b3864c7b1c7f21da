"""The Pareto front as a page that works offline (plotly) and as a PNG (matplotlib)."""

from __future__ import annotations

import html
from pathlib import Path

from sweep.config import StudyConfig
from sweep.objectives import Row, Table

MARKERS = {"baseline": "star", "rtn": "circle", "gptq": "square", "sparsegpt": "diamond", "magnitude": "triangle-up"}
PNG_MARKERS = {"baseline": "*", "rtn": "o", "gptq": "s", "sparsegpt": "D", "magnitude": "^"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: told apart by everyone


def write_front_page(study: StudyConfig, table: Table, path: Path) -> None:
    """Accuracy against each other objective, one chart a pair, and the table; plotly's script stands in the file."""
    import plotly.graph_objects as go

    charts: list[str] = []
    for name in _other_objectives(study):
        figure = go.Figure()
        for model, rows in _by_model(table).items():
            points = [row for row in rows if name in row.metrics and "accuracy" in row.metrics]
            figure.add_scatter(
                x=[row.metrics[name] for row in points],
                y=[row.metrics["accuracy"] for row in points],
                error_y={"array": [row.accuracy_half_width for row in points], "thickness": 1},
                mode="markers",
                name=model,
                text=[_hover(row) for row in points],
                hoverinfo="text",
                marker={
                    "symbol": [MARKERS[_method(row)] for row in points],
                    "size": [15 if row.on_front else 9 for row in points],
                    "color": _colour(table, model),
                    "line": {"width": [2 if row.on_front else 0 for row in points], "color": "black"},
                },
            )
        title = f"accuracy against {name.replace('_', ' ')}; framed: on the front"
        figure.update_layout(title=title, xaxis_title=name, yaxis_title="accuracy", template="plotly_white", height=520)
        charts.append(figure.to_html(full_html=False, include_plotlyjs=not charts))
    path.write_text(
        f"<!doctype html><meta charset='utf-8'><title>{study.study}: Pareto front</title>"
        "<style>body{font:15px sans-serif;margin:2em auto;max-width:1100px}td,th{padding:2px 10px;text-align:right}"
        "td:first-child{text-align:left}tr.front{font-weight:bold;background:#f2f7e8}</style>"
        f"<h1>{study.study}</h1>{''.join(charts)}{_html_table(study, table)}",
        encoding="utf-8",
    )


def draw_front(study: StudyConfig, table: Table, path: Path) -> None:
    """The same charts side by side as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = _other_objectives(study) or ["effective_bits"]
    figure, axes = pyplot.subplots(1, len(names), figsize=(6.5 * len(names), 5), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        for model, rows in _by_model(table).items():
            for row in rows:
                if name in row.metrics and "accuracy" in row.metrics:
                    _draw_point(axis, row, name, _colour(table, model))
        axis.set_xlabel(name.replace("_", " "))
        axis.set_ylabel("accuracy")
        axis.grid(alpha=0.3)
    _label_front(axes[0][-1], table, names[-1])
    _draw_legend(figure, table)
    figure.suptitle(f"{study.study}: framed points are on the Pareto front, bars are 95 % intervals")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _draw_point(axis: object, row: Row, name: str, colour: str) -> None:
    x, y = row.metrics[name], row.metrics["accuracy"]
    axis.errorbar(  # type: ignore[attr-defined]
        x,
        y,
        yerr=row.accuracy_half_width,
        fmt=PNG_MARKERS[_method(row)],
        color=colour,
        markersize=12 if row.on_front else 7,
        markeredgecolor="black" if row.on_front else colour,
        elinewidth=0.8,
        alpha=1.0 if row.on_front else 0.6,
    )


def _label_front(axis: object, table: Table, name: str) -> None:
    """Each scheme's name once, at its best point on the front: those of several models lie close together."""
    best: dict[str, Row] = {}
    for row in table.rows:
        if row.on_front and row.trial.scheme is not None and name in row.metrics and "accuracy" in row.metrics:
            label = row.trial.scheme.name
            best[label] = max(row, best.get(label, row), key=lambda row: row.metrics["accuracy"])
    for label, row in best.items():
        place = (row.metrics[name], row.metrics["accuracy"])
        axis.annotate(label, place, xytext=(7, 5), textcoords="offset points", fontsize=8)  # type: ignore[attr-defined]


def _draw_legend(figure: object, table: Table) -> None:
    from matplotlib.lines import Line2D

    models = [Line2D([], [], color=_colour(table, model), lw=4, label=model) for model in _by_model(table)]
    used = {_method(row) for row in table.rows}
    methods = [
        Line2D([], [], color="grey", marker=marker, ls="", label=method)
        for method, marker in PNG_MARKERS.items()
        if method in used
    ]
    figure.legend(handles=[*models, *methods], loc="outside lower center", ncols=7)  # type: ignore[attr-defined]


def _html_table(study: StudyConfig, table: Table) -> str:
    names = list(dict.fromkeys(["accuracy", "recovery", *study.objectives]))
    head = "".join(f"<th>{name}</th>" for name in ["trial", *names])
    body = "".join(
        f"<tr class='{'front' if row.on_front else ''}'><td>{html.escape(row.trial.name)}</td>"
        + "".join(f"<td>{row.metrics[name]:.4g}</td>" if name in row.metrics else "<td>-</td>" for name in names)
        + "</tr>"
        for row in table.rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _hover(row: Row) -> str:
    lines = [f"<b>{row.trial.name}</b>", *(f"{name}: {value:.4g}" for name, value in row.metrics.items())]
    return "<br>".join(lines)


def _other_objectives(study: StudyConfig) -> list[str]:
    return [name for name in study.objectives if name != "accuracy"]


def _by_model(table: Table) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in table.rows:
        groups.setdefault(row.trial.model.name, []).append(row)
    return groups


def _colour(table: Table, model: str) -> str:
    return COLOURS[list(_by_model(table)).index(model) % len(COLOURS)]


def _method(row: Row) -> str:
    return str(row.trial.scheme.method) if row.trial.scheme else "baseline"

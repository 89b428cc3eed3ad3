"""Figures drawn: by Plotly as parts of a page, by Matplotlib as PDF and SVG."""

from __future__ import annotations

import io
from typing import Any

from insitu.host.study.figures import Figure

#: Colours that people who see few can tell apart (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "pentagon")
_MARKERS = ("o", "s", "D", "^", "P", "X", "*", "p")


def plotly_script() -> str:
    """Plotly's own JavaScript, for the page's head."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def to_html(figure: Figure) -> str:
    """A figure as a part of a page whose head has `plotly_script`."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    if figure.bars:
        drawn.add_bar(
            x=[s.name for s in figure.series], y=[s.y[0] for s in figure.series], marker={"color": COLOURS[0]}
        )
    for i, s in enumerate(figure.series if not figure.bars else ()):
        colour, symbol = COLOURS[i % len(COLOURS)], _SYMBOLS[i % len(_SYMBOLS)]
        drawn.add_scatter(
            name=s.name,
            x=list(s.x),
            y=list(s.y),
            mode="lines+markers" if s.line else "markers",
            text=list(s.text) or None,
            hovertemplate="%{text}<br>%{x}: %{y:.2f}<extra>%{fullData.name}</extra>" if s.text else None,
            error_y={"type": "data", "array": list(s.spread), "thickness": 1} if s.spread else None,
            line={"color": colour},
            marker={"color": colour, "symbol": f"{symbol}-open" if s.hollow else symbol, "size": 7},
        )
    for name, y in figure.levels:
        drawn.add_hline(y=y, line={"dash": "dash", "color": "#555555", "width": 1}, annotation_text=name)
    drawn.update_layout(
        template="plotly_white",
        height=430,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title=figure.x,
        yaxis_title=figure.y,
        legend={"orientation": "h", "y": -0.2},
    )
    text: str = drawn.to_html(
        full_html=False, include_plotlyjs=False, div_id=figure.key, config={"displaylogo": False, "responsive": True}
    )
    return text


def to_paper(figure: Figure, suffix: str) -> bytes:
    """A figure as `pdf` or `svg`, the same bytes every time."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    settings: Any = {"svg.hashsalt": "insitu", "pdf.fonttype": 42, "font.size": 8}
    with mpl.rc_context(settings):
        canvas = Canvas(figsize=(4.5, 3.2), layout="constrained")
        axes = canvas.add_subplot()
        if figure.bars:
            axes.bar([s.name for s in figure.series], [s.y[0] for s in figure.series], color=COLOURS[0])
            axes.tick_params(axis="x", rotation=20)
        for i, s in enumerate(figure.series if not figure.bars else ()):
            colour = COLOURS[i % len(COLOURS)]
            axes.errorbar(
                list(s.x),
                list(s.y),
                yerr=list(s.spread) or None,
                label=s.name,
                color=colour,
                linestyle="-" if s.line else "none",
                marker=_MARKERS[i % len(_MARKERS)],
                markersize=3.5,
                markerfacecolor="none" if s.hollow else colour,
                linewidth=1,
                elinewidth=0.7,
            )
        for name, y in figure.levels:
            axes.axhline(y, color="#555555", linestyle="--", linewidth=0.8, label=name)
        axes.set(xlabel=figure.x, ylabel=figure.y, title=figure.title)
        axes.grid(alpha=0.3, linewidth=0.5)
        if not figure.bars:
            axes.legend(fontsize=6)
        written = io.BytesIO()
        dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}[suffix]
        canvas.savefig(written, format=suffix, metadata=dated)
    return written.getvalue()

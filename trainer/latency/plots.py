"""The picture of a check: measured against predicted latency, with the bound."""

from pathlib import Path

from pnag.models.cost.latency_table import LatencyTable
from pnag.trainer.latency.check import Check


def scatter(check: Check, table: LatencyTable, path: Path) -> None:
    """Write a PNG: one point per network, the diagonal, and the line that the bound promises to stay above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    largest = 1.05 * max(check.predicted_N.max(), check.measured_N.max())
    axes.plot([0, largest], [0, largest], color="#888888", linewidth=1, label="measured = predicted")
    if check.upper_N is not None:
        factor = table.bound_factor(table.default_coverage)
        axes.plot(
            [0, largest / factor], [0, largest], color="#c44e52", linewidth=1, linestyle="--",
            label=f"bound at coverage {table.default_coverage:g} (x{factor:.3f})",
        )  # fmt: skip
    axes.scatter(check.predicted_N, check.measured_N, s=18, color="#4c72b0", label=f"{len(check.measured_N)} networks")
    axes.set(
        xlim=(0, largest), ylim=(0, largest), xlabel="predicted latency, ms", ylabel="measured latency, ms",
        title=f"{table.space}\n{table.device.name}",
    )  # fmt: skip
    axes.title.set_fontsize(9)
    axes.text(
        0.97, 0.03,
        f"MAPE {check.figures['mape_percent']:.2f} %, bias {check.figures['bias_percent']:+.2f} %\n"
        f"Kendall tau {check.figures['kendall_tau']:.3f}",
        transform=axes.transAxes, ha="right", va="bottom", fontsize=9,
    )  # fmt: skip
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})

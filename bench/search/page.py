"""docs/benchmarks.md: every result of a folder on one page, figures beside targets. Nobody edits it by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

from pnag.bench.search.methods.registry import METHODS
from pnag.bench.search.report import headline, markdown
from pnag.models.errors import PnagError
from pnag.models.files import write_atomic

_PICTURES = {
    "fronts.png": "What each method answers; dashed, the best known; grey, networks of the space.",
    "regret.png": "Regret against budget, mean over seeds.",
    "answers.png": "The generator's answers among the architectures (the paper's first figure).",
    "against_nas_mo.png": "One generator against a search per budget (the paper's second figure).",
}
_TARGETS = {
    # space: (samples, mean regret, hypervolume, the same as stretch)
    "nas-bench-macro": (0.005, 99.9, 0.0005, 100.0),
    "ofa-mobilenetv3-w1.0": (0.01, 99.8, 0.002, 99.95),
}


def write_page(results: Path, out: Path) -> Path:
    """Write the page from what `pnag bench front|evaluators|references|records` left in `results`.

    Raises:
        PnagError: if the folder holds no comparison.
    """
    summaries = sorted(results.glob("*/front.json"))
    if not summaries:
        raise PnagError(f"{results}: holds no comparison; run `pnag bench front --out {results}/NAME` first")
    pictures = out.with_suffix("")
    parts = [_INTRODUCTION, "## Targets\n", _targets([json.loads(path.read_text()) for path in summaries])]
    parts += ["## Methods\n", "\n".join(f"- **{m.name}**: {m.about}" for m in METHODS.values()) + "\n"]
    for path in summaries:
        summary = json.loads(path.read_text())
        name = summary["setting"]["name"]
        parts += [f"## {name}\n", headline(summary) + "\n", _calls(summary), markdown(summary)]
        for picture, caption in _PICTURES.items():
            if (path.parent / picture).exists():
                pictures.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path.parent / picture, pictures / f"{name}-{picture}")
                parts.append(f"![{caption}]({pictures.name}/{name}-{picture})\n")
        if (path.parent / "paper.md").exists():
            parts += [f"### The paper's table, {name}\n", (path.parent / "paper.md").read_text()]
    for stem, heading in (
        ("evaluators", "## Evaluators: who orders pairs right\n"),
        ("records", "## How many networks must be measured\n"),
        ("references", "## Known networks on this machine\n"),
    ):
        if (results / f"{stem}.md").exists():
            parts += [heading, _NOTES[stem], (results / f"{stem}.md").read_text()]
        if (results / f"{stem}.png").exists():
            pictures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(results / f"{stem}.png", pictures / f"{stem}.png")
            parts.append(f"![{stem}]({pictures.name}/{stem}.png)\n")
    write_atomic(out, "\n".join(parts))
    return out


_INTRODUCTION = """# Benchmarks

Written by `make bench`; do not edit. Regret is in points of top-1: how far a method's answer to a budget falls short of
the best known network within that budget, by the same evaluator. Budgets are even over the range, none was trained on.
Calls are different architectures that the evaluator was asked about while fitting; repeats are free for everybody, and
every method has the same allowance. Methods that search anew per budget share it among the budgets. Seconds are wall
time on a shared machine: read them as orders of magnitude. An answer over its budget, or none, counts as the cheapest
network.
"""

_NOTES = {
    "evaluators": "Pairs of held-out networks at budgets over the range, ordered by the paper's eq. 5.\n",
    "records": (
        "NAS-Bench-Macro, labelled with one of its three trainings, scored with the mean of the other two; the answers "
        "are exhaustive over the evaluator's predictions.\n"
    ),
    "references": (
        "Built from their papers, random weights, one thread, batch 1, 224 px, lower quartile over interleaved rounds. "
        "Top-1 as published; for our networks the prediction for shared weights, without fine-tuning.\n"
    ),
}


def _targets(summaries: list[dict[str, Any]]) -> str:
    lines = [
        "| setting | mean regret | target (stretch) | hypervolume % | target (stretch) | too dear | met |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for summary in summaries:
        setting = summary["setting"]
        row = summary["methods"].get("elite-imitation")
        if row is None or setting["space"] not in _TARGETS:
            continue
        mean = row["mean"]
        regret, volume, stretch_regret, stretch_volume = _TARGETS[setting["space"]]
        is_met = mean["mean_regret"] <= regret and mean["hypervolume_percent"] >= volume and mean["violations"] == 0
        is_stretched = mean["mean_regret"] <= stretch_regret and mean["hypervolume_percent"] >= stretch_volume - 1e-9
        verdict = ("yes, stretch too" if is_stretched else "yes") if is_met else "no"
        lines.append(
            f"| {setting['name']}, S={setting['samples']} | {mean['mean_regret']:.4f} "
            f"| {regret:g} ({stretch_regret:g}) | {mean['hypervolume_percent']:.3f} | {volume:g} ({stretch_volume:g}) "
            f"| {mean['violations']:.0f} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


def _calls(summary: dict[str, Any]) -> str:
    setting = summary["setting"]
    return f"Allowance {setting['calls']} calls; policies draw {setting['samples']} samples per answer.\n"

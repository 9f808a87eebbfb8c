"""`pnag bench`: the comparisons that need training. Heavy imports wait until a command runs."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pnag.cli.options import (
    BundleOption,
    CostTableOption,
    JsonOption,
    SeedOption,
    SpaceOption,
    print_json,
    print_result,
    rounds_bar,
)

app = typer.Typer(no_args_is_help=True, help="Comparisons: tables, JSON, Markdown and plots.")

RecordsOption = Annotated[Path, typer.Option(help="Measured architectures that the evaluator is fitted on.")]
NumRecordsOption = Annotated[int | None, typer.Option(min=1, help="Use so many random records only.")]
KeyOption = Annotated[str, typer.Option(help="An API key of the service.")]
OutOption = Annotated[Path, typer.Option(help="A folder for results; what is there already is not run again.")]
ResultsOption = Annotated[Path | None, typer.Option(help="A folder for NAME.json and NAME.md, NAME being the command.")]


@app.command(
    epilog="Example: pnag bench front --space nas-bench-macro --records macro.json --truth macro.json "
    "--num-records 500 --calls 1000 --samples 32 --out runs/bench/macro-macs"
)
def front(
    space: SpaceOption,
    records: RecordsOption,
    out: OutOption,
    latency_table: CostTableOption = None,
    truth: Annotated[Path | None, typer.Option(help="Records of the whole space: adds the true regret.")] = None,
    num_records: NumRecordsOption = None,
    methods: Annotated[str | None, typer.Option(help="Comma-separated; default: all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method.")] = 3,
    budgets: Annotated[int, typer.Option(min=2, help="Test budgets, even over the range.")] = 50,
    calls: Annotated[int, typer.Option(min=100, help="Architectures each method may ask about.")] = 50_000,
    samples: Annotated[int, typer.Option(min=1, help="That a policy draws per budget when it answers.")] = 64,
    paper: Annotated[bool, typer.Option(help="Also print the paper's table, with published rows (OFA space).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare our generator with every method of the paper, on the same evaluator and the same number of calls."""
    from pnag.bench.search.methods.registry import METHODS

    names = list(METHODS) if methods is None else [name.strip() for name in methods.split(",")]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r}; choose from {list(METHODS)}", param_hint="--methods")
    from rich.console import Console

    from pnag.bench.search.front import find_reference, run_methods
    from pnag.bench.search.plots import draw_all
    from pnag.bench.search.problem import load_problem
    from pnag.bench.search.report import markdown, summarise, terminal
    from pnag.models.files import to_json, write_atomic
    from pnag.trainer.progress import show_progress

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    with show_progress() as progress:
        problem = load_problem(
            out.name, space, records, latency_table, progress,
            truth_path=truth, num_records=num_records, num_budgets=budgets,
        )  # fmt: skip
        runs = run_methods(problem, names, range(seeds), calls, samples, out / "runs", progress)
        reference = find_reference(problem, runs, out, progress)
    summary = summarise(problem, reference, runs)
    summary["setting"] |= {"calls": calls, "samples": samples}
    write_atomic(out / "front.json", to_json(summary))
    write_atomic(out / "front.md", markdown(summary))
    draw_all(problem, reference, runs, out)
    if paper:
        from pnag.bench.search.paper import our_rows, paper_markdown

        rows = our_rows(problem, runs)
        summary["paper"] = rows
        write_atomic(out / "paper.md", paper_markdown(problem, rows))
    if as_json:
        print_json(summary)
        return
    console = Console(width=None if sys.stdout.isatty() else 200)
    terminal(summary, console)
    if paper:
        typer.echo((out / "paper.md").read_text())
    typer.echo(f"{out}: front.json, front.md, plots")


@app.command(epilog="Example: pnag bench references --bundle bundles/ofa-mobilenetv3-w1.0-imagenet --out runs/bench")
def references(
    out: ResultsOption = None,
    bundle: Annotated[Path | None, typer.Option(help="Time networks along this bundle's front too.")] = None,
    check_only: Annotated[bool, typer.Option(help="Count parameters and MAdds; time nothing.")] = False,
    rounds: Annotated[int, typer.Option(min=3, help="Interleaved rounds per network.")] = 40,
    threads: Annotated[int, typer.Option(min=1, help="Of ONNX Runtime.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Known networks beside ours, on your hardware: counts against published figures, and latency."""
    from pnag.bench.networks.time_references import check_references, references_markdown, time_references
    from pnag.models.bundle.bundle import Bundle

    about: dict[str, Any] | None = None
    if check_only:
        rows = check_references()
    else:
        with rounds_bar("timing") as progress:
            rows, about = time_references(Bundle.load(bundle) if bundle else None, rounds, threads, progress)
    _report("references", out, {"networks": rows, "about": about}, references_markdown(rows, about), as_json)


@app.command(
    epilog="Example: pnag bench evaluators --space ofa-mobilenetv3-w1.0 --records records.csv --out runs/bench"
)
def evaluators(
    space: SpaceOption,
    records: RecordsOption,
    latency_table: CostTableOption = None,
    num_records: NumRecordsOption = None,
    out: ResultsOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Splits into fitted and held-out records.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Compare the composite score with the paper's learned ranking on held-out pairs, split by what fits."""
    from pnag.bench.search.evaluators import compare_evaluators, evaluators_markdown
    from pnag.trainer.progress import show_progress

    with show_progress() as progress:
        result = compare_evaluators(space, records, latency_table, num_records, range(seeds), progress)
    _report("evaluators", out, result, evaluators_markdown(result), as_json)


@app.command(epilog="Example: pnag bench records --records nas-bench-macro_cifar10.json --out runs/bench")
def records(
    records: Annotated[Path, typer.Option(help="NAS-Bench-Macro's JSON, with its three trainings.")],
    latency_table: CostTableOption = None,
    out: Annotated[Path | None, typer.Option(help="A folder for records.json, records.md and records.png.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions; each labels with another training.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Find how many networks must be measured: regret against records, actively chosen or at random."""
    from pnag.bench.search.records import SIZES, compare_labelling, draw_labelling, labelling_markdown
    from pnag.models.cost.additive import GroupedCost, LayerCost
    from pnag.models.cost.latency_table import LatencyTable
    from pnag.models.space.registry import get_space
    from pnag.trainer.progress import show_progress

    space = get_space("nas-bench-macro")
    if latency_table is None:
        cost: GroupedCost = LayerCost(space, lambda layer: layer.macs / 1e6)
    else:
        cost = LatencyTable.load(latency_table).cost(space)
    with show_progress() as progress:
        result = compare_labelling(space, cost, records, SIZES, range(seeds), progress)
    if out is not None:
        draw_labelling(result, out / "records.png")
    _report("records", out, result, labelling_markdown(result), as_json)


@app.command(epilog="Example: pnag bench page --results runs/bench --out docs/benchmarks.md")
def page(
    results: Annotated[Path, typer.Option(help="The folder that the other bench commands wrote into.")],
    out: Annotated[Path, typer.Option(help="The page; its pictures go into a folder of the same name beside it.")],
) -> None:
    """Put every result of a folder on one page."""
    from pnag.bench.search.page import write_page

    typer.echo(f"{write_page(results, out)}")


@app.command(epilog="Example: pnag bench latency --bundle bundles/ofa-mobilenetv3-w1.0-imagenet")
def latency(
    bundle: Annotated[Path, typer.Option(help="The bundle to ask; run this on its device.")],
    answers: Annotated[int, typer.Option(min=2, help="Random budgets to ask.")] = 100,
    rounds: Annotated[int, typer.Option(min=4, help="Rounds per network at most.")] = 40,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Build answers as networks, time them here, and count the budgets they break."""
    from pnag.bench.networks.answers import ask, figures, measure_answers
    from pnag.models.bundle.bundle import Bundle
    from pnag.trainer.latency.measure import Run

    loaded = Bundle.load(bundle)
    with rounds_bar("answers") as progress:
        measured, host_load = measure_answers(
            loaded, ask(loaded, answers, seed), Run(rounds, progress=progress), bundle
        )
    result = figures(measured)
    print_result(
        {**result, "host_load": host_load},
        as_json,
        f"{result['num_answers']} answers at coverage {result['coverage']:g}: {result['over_budget_percent']:g} % over "
        f"budget ({result['over_budget_in_slow_stretches_percent']:g} % in the slowest quarter of the time), "
        f"{result['budget_used_percent']:.1f} % of the budget used; prediction: MAPE "
        f"{result['prediction']['mape_percent']:.2f} %, tau {result['prediction']['kendall_tau']:.3f}",
    )


@app.command(
    epilog="Example: pnag bench labels --bundle bundles/nas-bench-macro-cifar10 --records records.csv "
    "--truth nas-bench-macro_cifar10.json --out labels.png"
)
def labels(
    bundle: BundleOption,
    records: Annotated[Path, typer.Option(help="What the bundle was trained on: labels by a supernet's weights.")],
    truth: Annotated[Path, typer.Option(help="Records of the whole space, each architecture trained on its own.")],
    out: Annotated[Path, typer.Option(help="The picture to write.")],
    budgets: Annotated[int, typer.Option(min=2, help="Test budgets, even over the range.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Compare labels with known true accuracies: how they rank architectures, and what the bundle's answers lose."""
    from pnag.bench.search.supernet_truth import compare_with_truth
    from pnag.models.bundle.bundle import Bundle

    result = compare_with_truth(Bundle.load(bundle), records, truth, out, budgets)
    text = (
        "kendall tau {kendall_tau:.3f} over {architectures} labels (MACs alone {kendall_tau_of_macs:.3f}), "
        "{kendall_tau_of_predictions:.3f} of predictions for the whole space; true regret {regret_points:.3f} points "
        "over {budgets} budgets, at most {largest_regret_points:.3f}; {answers_over_budget} answers over budget"
    )
    print_result(result, as_json, text.format(**result))


@app.command(epilog="Example: pnag bench serve --bundle bundles/ofa-mobilenetv3-w1.0-imagenet --out runs/bench/serve")
def serve(
    bundle: BundleOption,
    out: Annotated[Path, typer.Option(help="A folder for serve.json, serve.md and serve.png.")],
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds.")] = 5,
    seconds: Annotated[int, typer.Option(min=1, help="That a round of one contender takes.")] = 5,
    connections: Annotated[int, typer.Option(min=1, help="Of wrk.")] = 64,
    candidates: Annotated[int, typer.Option(min=1, help="Networks sampled for each budget.")] = 16,
    only: Annotated[list[str] | None, typer.Option(help="Only contenders whose name starts so; repeatable.")] = None,
    environments: Annotated[
        Path, typer.Option(help="Where LitServe, BentoML and MLServer are installed, each by itself: 2 GB.")
    ] = Path("runs/serving-environments"),
    url: Annotated[
        list[str] | None, typer.Option(help="Ask only this running service of the bundle, NAME=ADDRESS; repeatable.")
    ] = None,
    key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Our service beside a hello world, LitServe, BentoML and MLServer under wrk: 6 minutes (needs `wrk`)."""
    import shutil

    from pnag.bench.serving.compare import check_kserve, compare_serving, compare_urls
    from pnag.bench.serving.report import draw_serving, serving_markdown
    from pnag.bench.serving.wrk import Load
    from pnag.trainer.progress import show_progress

    if shutil.which("wrk") is None:
        raise typer.BadParameter("`wrk` is not installed; apt-get install wrk, or brew install wrk")
    load = Load(rounds, seconds, connections, candidates)
    with show_progress() as progress:
        if url:
            urls = {name: address for name, _, address in (one.partition("=") for one in url)}
            report = compare_urls(bundle, load, urls, key, progress)
        else:
            report = compare_serving(bundle, load, environments, progress, only or ())
            if not only:
                report["kserve"] = check_kserve(bundle, environments)
    draw_serving(report, out / "serve.png")
    _report("serve", out, report, serving_markdown(report), as_json)


@app.command(epilog="Example: pnag bench soak --bundle bundles/ofa-mobilenetv3-w1.0-imagenet --out runs/bench/serve")
def soak(
    bundle: BundleOption,
    out: Annotated[Path, typer.Option(help="A folder for soak.json and soak.md.")],
    minutes: Annotated[float, typer.Option(min=0.2, help="How long.")] = 10,
    per_s: Annotated[float, typer.Option(min=1, help="Requests per second.")] = 40,
    url: Annotated[str | None, typer.Option(help="Ask this running service of the bundle instead.")] = None,
    key: KeyOption = "",
    pid: Annotated[list[int] | None, typer.Option(help="A process of that service, to watch; repeatable.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Load one worker for minutes with all kinds of requests and reloads, and say whether its memory stays flat."""
    from pnag.bench.serving.report import soak_markdown
    from pnag.bench.serving.soak import soak, soak_url
    from pnag.models.bundle.bundle import Bundle
    from pnag.trainer.progress import show_progress

    if url and not pid:
        raise typer.BadParameter("says which processes to watch", param_hint="--pid")
    with show_progress() as progress:
        if url:
            report = soak_url(Bundle.load(bundle), minutes * 60, per_s, url, key, pid or (), progress)
        else:
            report = soak(bundle, minutes * 60, per_s, progress)
    _report("soak", out, report, soak_markdown(report), as_json)
    if not report["is_flat"] or report["unexpected"] or report["failed_reloads"]:
        raise typer.Exit(1)


@app.command(epilog="Example: pnag bench faults --bundle bundles/ofa-mobilenetv3-w1.0-imagenet --out runs/bench/serve")
def faults(
    bundle: BundleOption,
    out: Annotated[Path, typer.Option(help="A folder for faults.json and faults.md.")],
    as_json: JsonOption = False,
) -> None:
    """Kill Redis, swap bundles, end replicas, ask too much, all under load, and count what failed (5 minutes)."""
    from pnag.bench.serving.faults import all_faults
    from pnag.bench.serving.report import faults_markdown
    from pnag.trainer.progress import show_progress

    with show_progress() as progress:
        report = all_faults(bundle, progress)
    _report("faults", out, report, faults_markdown(report), as_json)
    if any(report[part]["failed"] for part in ("redis_killed", "bundles_swapped", "replicas_ended")):
        raise typer.Exit(1)


@app.command(epilog="Example: pnag bench traffic http://localhost:8000 --seconds 10")
def traffic(
    url: Annotated[str, typer.Argument(help="Address of a running service.")],
    key: KeyOption = "",
    connections: Annotated[int, typer.Option(min=1, help="Each asks again when it was answered.")] = 4,
    seconds: Annotated[float, typer.Option(help="How long.")] = 60,
    until: Annotated[Path | None, typer.Option(help="End as soon as this file is there.")] = None,
    pause_s: Annotated[float, typer.Option(help="Between an answer and the next request.")] = 0,
    fresh_every: Annotated[int, typer.Option(help="1: all budgets differ; 5: every fifth; 0: none.")] = 1,
    seed: Annotated[int, typer.Option(help="Another order of budgets.")] = 0,
    allow: Annotated[list[int] | None, typer.Option(help="A status beside 200 that is no failure; repeatable.")] = None,
) -> None:
    """Ask a running service for budgets, and count what came back, as JSON: a witness, not a benchmark."""
    from pnag.bench.serving.traffic import traffic

    found = traffic(
        url, key, seconds, connections, until=until, pause_s=pause_s, fresh_every=fresh_every, seed=seed,
        allowed=allow or (),
    )  # fmt: skip
    print_json(found)


@app.command(epilog="Example: pnag bench serving-page --results runs/bench/serve --out docs/benchmarks-serving.md")
def serving_page(
    results: Annotated[Path, typer.Option(help="The folder that `pnag bench serve`, `faults` and `soak` wrote into.")],
    out: Annotated[Path, typer.Option(help="The page.")],
) -> None:
    """Put what was measured of serving on one page, beside the targets."""
    from pnag.bench.serving.page import write_serving_page

    typer.echo(f"{write_serving_page(results, out)}")


def _report(name: str, out: Path | None, result: dict[str, Any], text: str, as_json: bool) -> None:
    """Write a result as JSON and Markdown into a folder, if there is one, and print it."""
    from pnag.models.files import to_json, write_atomic

    if out is not None:
        write_atomic(out / f"{name}.json", to_json(result))
        write_atomic(out / f"{name}.md", text)
    print_result(result, as_json, text)

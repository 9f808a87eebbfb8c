"""`pnag explain`: heavy imports wait until it runs."""

from typing import Annotated

import typer

from pnag.cli.options import BundleOption, JsonOption, print_json

app = typer.Typer()


@app.command(epilog="Example: pnag explain --bundle bundles/ofa-mobilenetv3-w1.0-imagenet --budget-ms 20")
def explain(
    bundle: BundleOption,
    budget_ms: Annotated[float, typer.Option(help="Latency budget in ms.", show_default=False)],
    macs_m: Annotated[float | None, typer.Option(help="At most so many million MACs.")] = None,
    params_m: Annotated[float | None, typer.Option(help="At most so many million parameters.")] = None,
    coverage: Annotated[float | None, typer.Option(help="How likely the budget is kept; 0.5 = no margin.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain why a budget gets its network: what binds, the price of 0.1 % more, alternatives, how new it is."""
    from pnag.models.answer.explain import Explainer
    from pnag.models.answer.question import Limits, Query
    from pnag.models.answer.runtime import OnnxGenerator
    from pnag.models.bundle.bundle import Bundle
    from pnag.service.contract.explanations import explain_body, explain_lines

    loaded = Bundle.load(bundle)
    explanation = Explainer(OnnxGenerator(loaded)).explain(Query(budget_ms, Limits(macs_m, params_m), coverage))
    if as_json:
        print_json(explain_body(loaded, explanation))
        return
    for line in explain_lines(loaded, explanation):
        typer.echo(line)

"""Known networks and our answers, timed side by side on this machine in ONNX Runtime."""

from collections.abc import Callable, Sequence
from typing import Any

from pnag.bench.networks.reference_networks import REFERENCE_NETWORKS, RESOLUTION, ReferenceNetwork
from pnag.models.bundle.bundle import Bundle
from pnag.trainer.latency import graphs
from pnag.trainer.latency.timing.host import HostLoad, Setup, describe_device, pinned
from pnag.trainer.latency.timing.rounds import Item, Plan, RoundsDone, time_interleaved
from pnag.trainer.latency.timing.samples import Sample, lower_quartile

_OWN_POINTS = 8


def check_references(networks: Sequence[ReferenceNetwork] = REFERENCE_NETWORKS) -> list[dict[str, Any]]:
    """Each known network's counts beside the published ones."""
    rows = []
    for network in networks:
        built = network.build()
        rows.append(
            {
                "name": network.name,
                "top1_percent": network.top1_percent,
                "params_m": built.params / 1e6,
                "published_params_m": network.published_params_m,
                "macs_m": built.macs / 1e6,
                "published_macs_m": network.published_macs_m,
                "source": network.source,
                "remark": network.remark,
            }
        )
    return rows


def time_references(
    bundle: Bundle | None, rounds: int, threads: int, progress: Callable[[RoundsDone], None]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Counts and latency of the known networks, then of networks along the bundle's front; and what the host did.

    The latency is the lower quartile over interleaved rounds: what the tables of `pnag latency` hold.
    """
    rows = check_references()
    items = [Item(n.name, int(4 * 1e6 * n.published_params_m), _reference_model(n)) for n in REFERENCE_NETWORKS]
    for point in _spread(bundle) if bundle else ():
        assert bundle is not None
        layers = bundle.space.layers(point.encoding)
        name = f"ours, {point.latency_ms:.1f} ms predicted"
        rows.append(
            {
                "name": name,
                "top1_percent": 100 * point.accuracy,
                "params_m": sum(x.params for x in layers) / 1e6,
                "macs_m": sum(x.macs for x in layers) / 1e6,
                "predicted_ms": point.latency_ms,
                "encoding": point.encoding,
                "source": bundle.name,
                "remark": "",
            }
        )
        items.append(Item(name, 4 * sum(x.params for x in layers), _own_model(bundle, point.encoding)))
    for item in items:
        item.as_user = True
    samples: dict[str, list[Sample]] = {}
    load = HostLoad()
    setup = Setup(threads=threads)
    with pinned(threads):
        time_interleaved(items, setup, Plan(rounds=rounds), samples, progress=progress)
    for row in rows:
        times = [ms for ms, _ in samples[row["name"]]]
        row["latency_ms"] = lower_quartile(times)
        row["rounds"] = len(times)
    device = describe_device(setup)
    about = {"device": device, "host_load": load.report(), "resolution": RESOLUTION}
    return rows, about | ({"predicted_for": bundle.manifest["device"]["name"]} if bundle else {})


def references_markdown(rows: Sequence[dict[str, Any]], about: dict[str, Any] | None) -> str:
    """One table: known networks and ours, by latency where it was measured; and on what, if that is another device."""
    has_latency = about is not None
    heading = (
        "| network | "
        + ("latency ms | " if has_latency else "")
        + "top-1 % | params M | published | MAdds M | published | remark |"
    )
    lines = [heading, "|---|" + "---:|" * (6 if has_latency else 5) + "---|"]
    for row in sorted(rows, key=lambda r: r.get("latency_ms", 0.0)):
        latency = f"{row['latency_ms']:.2f} | " if has_latency else ""
        published = [f"{row[k]:g}" if k in row else "" for k in ("published_params_m", "published_macs_m")]
        top1 = f"{row['top1_percent']:.1f}" + ("" if "published_macs_m" in row else " predicted")
        lines.append(
            f"| {row['name']} | {latency}{top1} | {row['params_m']:.2f} | {published[0]} | {row['macs_m']:.1f} "
            f"| {published[1]} | {row['remark']} |"
        )
    if about is not None:
        timed, predicted = about["device"]["name"], about.get("predicted_for")
        lines += ["", f"Timed on {timed}."]
        if predicted and predicted != timed:
            lines[-1] += f" The predictions in the names of our networks are for another device, {predicted}."
    return "\n".join(lines) + "\n"


def _spread(bundle: Bundle) -> list[Any]:
    """A few of the front's points, even in latency."""
    low, high = bundle.front[0].latency_ms, bundle.front[-1].latency_ms
    targets = [low + (high - low) * i / (_OWN_POINTS - 1) for i in range(_OWN_POINTS)]
    return [min(bundle.front, key=lambda p, t=t: abs(p.latency_ms - t)) for t in targets]  # type: ignore[misc]


def _reference_model(network: ReferenceNetwork) -> Callable[[], bytes]:
    return lambda: network.build().model


def _own_model(bundle: Bundle, encoding: str) -> Callable[[], bytes]:
    return lambda: bytes(graphs.network_graph(bundle.space, encoding).SerializeToString())

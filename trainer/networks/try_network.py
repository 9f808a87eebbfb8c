"""An exported network beside its promises: its accuracy on images, its time on this machine."""

from typing import Any

from pnag.models.errors import WeightsError
from pnag.trainer.data.images import Images, Normalise
from pnag.trainer.latency.fit import network_latency
from pnag.trainer.latency.timing.host import Setup, pinned, processor_name
from pnag.trainer.latency.timing.rounds import Item, Plan, time_interleaved
from pnag.trainer.latency.timing.samples import Sample
from pnag.trainer.networks.export import accuracy_of, check_labels, metadata_of, sizes_of

ROUNDS, SECONDS = 1000, 5.0
"""At most. A fraction of a second may fall into one slow moment of the host, and would judge that."""


def try_network(content: bytes, images: Images | None) -> dict[str, Any]:
    """Run an exported network on one thread: single images for the time, all of them for the accuracy.

    Returns:
        JSON values, in percent and ms, beside what the file says. `latency_ms` is that of a good round, what
        `predicted_latency_ms` aims at; `latency_in_slow_stretches_ms` that of the slowest quarter of the trial, what
        `latency_upper_ms` is to cover.

    Raises:
        WeightsError: if the file does not say what it promises, so that there is nothing to compare with.
        TrainingError: if the images have labels that the network cannot give.
    """
    properties = metadata_of(content)
    needed = ("predicted_latency_ms", "latency_upper_ms", "predicted_top1_percent", "mean", "std")
    missing = [name for name in needed if name not in properties]
    if missing:
        raise WeightsError(f"the file says nothing of {', '.join(missing)}; is it from `pnag export` or the service?")
    samples: dict[str, list[Sample]] = {}
    item = Item("network", len(content), lambda: content, as_user=True)
    with pinned(1):
        plan = Plan(rounds=ROUNDS, min_rounds=ROUNDS, stop_after_s=SECONDS)
        time_interleaved([item], Setup(), plan, samples)
    latency = network_latency(item.name, samples[item.name])
    upper_ms = float(properties["latency_upper_ms"])
    report: dict[str, Any] = {
        **{name: properties.get(name) for name in ("encoding", "bundle", "device")},
        "processor": processor_name(),
        "predicted_latency_ms": float(properties["predicted_latency_ms"]),
        "latency_upper_ms": upper_ms,
        "latency_ms": round(latency.ms, 4),
        "latency_in_slow_stretches_ms": round(latency.slow_ms, 4),
        "is_within_bound": latency.slow_ms <= upper_ms,
    }
    if images is None:
        return report
    check_labels(images, sizes_of(content)[1])
    mean, std = ([float(value) for value in properties[name].split(",")] for name in ("mean", "std"))
    top1_percent = 100 * accuracy_of(content, images, Normalise(mean, std))
    predicted = float(properties["predicted_top1_percent"])
    return report | {
        "images": len(images),
        "predicted_top1_percent": predicted,
        "top1_percent": round(top1_percent, 2),
        "top1_difference": round(top1_percent - predicted, 2),
    }

"""An exported network beside its promises: its accuracy on images, its time on this machine."""

from dataclasses import dataclass
from typing import Any

from pnag.models.errors import TrainingError, WeightsError
from pnag.trainer.data.images import Images, Normalise
from pnag.trainer.latency.fit import network_latency
from pnag.trainer.latency.timing.host import Setup, pinned, processor_name
from pnag.trainer.latency.timing.rounds import Item, Plan, time_interleaved
from pnag.trainer.latency.timing.samples import Sample
from pnag.trainer.networks.export import accuracy_of, metadata_of, sizes_of

ROUNDS, SECONDS = 1000, 5.0
"""At most. A fraction of a second may fall into one slow moment of the host, and would judge that."""


@dataclass(frozen=True)
class Trial:
    """An exported network's time and accuracy here, beside what its file says.

    Attributes:
        ms: in a good round of single images, what `predicted_latency_ms` aims at.
        slow_ms: in the slowest quarter of the trial, what `latency_upper_ms` is to cover.
        accuracy: top-1 on the images, a fraction; None without images.
    """

    properties: dict[str, str]
    processor: str
    ms: float
    slow_ms: float
    accuracy: float | None
    num_images: int

    def report(self) -> dict[str, Any]:
        """JSON values, in percent and ms; what the file says comes first."""
        said = {name: self.properties.get(name) for name in ("encoding", "bundle", "device")}
        upper_ms = float(self.properties["latency_upper_ms"])
        report: dict[str, Any] = {
            **said,
            "processor": self.processor,
            "predicted_latency_ms": float(self.properties["predicted_latency_ms"]),
            "latency_upper_ms": upper_ms,
            "latency_ms": round(self.ms, 4),
            "latency_in_slow_stretches_ms": round(self.slow_ms, 4),
            "is_within_bound": self.slow_ms <= upper_ms,
        }
        if self.accuracy is not None:
            predicted = float(self.properties["predicted_top1_percent"])
            report |= {
                "images": self.num_images,
                "predicted_top1_percent": predicted,
                "top1_percent": round(100 * self.accuracy, 2),
                "top1_difference": round(100 * self.accuracy - predicted, 2),
            }
        return report


def try_network(content: bytes, images: Images | None) -> Trial:
    """Run an exported network on one thread: single images for the time, all of them for the accuracy.

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
    accuracy = None
    if images is not None:
        num_classes = sizes_of(content)[1]
        if images.labels_N.min() < 0 or images.labels_N.max() >= num_classes:
            raise TrainingError(f"a label is outside 0 to {num_classes - 1}, the network's classes; repair the images")
        mean, std = ([float(value) for value in properties[name].split(",")] for name in ("mean", "std"))
        accuracy = accuracy_of(content, images, Normalise(mean, std))
    count = 0 if images is None else len(images)
    return Trial(properties, processor_name(), latency.ms, latency.slow_ms, accuracy, count)

"""Time a search space's layers, or whole networks, on this machine; the timing itself is `kit_script.py`'s.

What is measured is kept as it comes in a *measurements* file, the same one a kit brings back from a device:
{format, space, device, layers: {key: {samples_ms, clock_ms}}, networks: {encoding: ...}, overhead: {bound, as_user}}.
A break costs nothing: the next run reads it and goes on.
"""

import logging
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pnag.models.cost.latency_table import Device, LatencyTable, LayerLatency
from pnag.models.errors import LatencyTableError
from pnag.models.files import is_number, read_json_object
from pnag.models.space.layers import Layer
from pnag.trainer.latency import kit_script
from pnag.trainer.latency.kit_script import HostLoad, Item, Plan, Progress, Sample, Setup

logger = logging.getLogger(__name__)

BOUND, AS_USER = "bound", "as_user"
"""The two overheads: of an empty session between layers (input and output in place), and of a user's plain call."""
STATISTIC = "lower_quartile_of_rounds_at_median_clock"
"""Of each round the fastest of three runs; see kit_script."""
LEAST_MS = 1e-4
"""What a layer is given that is no slower than an empty session: below what can be told apart."""
TWIN_RATIO = 0.8
SECONDS_SUSPECTED_BELOW_MS = 0.003


@dataclass
class Measurements:
    """Rounds on one device, by layer key and by encoding; `host_load` is the last run's."""

    space: str
    device: dict[str, Any]
    layers: dict[str, list[Sample]] = field(default_factory=dict)
    networks: dict[str, list[Sample]] = field(default_factory=dict)
    overhead: dict[str, list[Sample]] = field(default_factory=dict)
    host_load: dict[str, Any] | None = None
    measured_at: str | None = None
    is_complete: bool = False
    calibration: list[str] = field(default_factory=list)
    """Of the networks those that a kit means to calibrate with; the others are for the bound."""

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        kit_script.write_json(
            path,
            {
                "format": kit_script.FORMAT,
                "format_version": kit_script.FORMAT_VERSION,
                "space": self.space,
                "device": self.device,
                "complete": self.is_complete,
                "calibration": self.calibration,
                "measured_at": self.measured_at,
                "host_load": self.host_load,
                **{
                    group: {
                        name: kit_script.pack_samples(times) for name, times in getattr(self, group).items() if times
                    }
                    for group in ("layers", "networks", "overhead")
                },
            },
        )

    @classmethod
    def load(cls, path: Path) -> "Measurements":
        """Read a measurements file, finished or not.

        Raises:
            LatencyTableError: naming the file and the entry that cannot be used.
        """
        try:
            document = read_json_object(path.read_bytes(), path.name, LatencyTableError)
        except OSError as exc:
            raise LatencyTableError(f"{path}: cannot read the measurements ({exc.strerror})") from None
        if document.get("format") != kit_script.FORMAT:
            raise LatencyTableError(
                f"{path.name}: format is {document.get('format')!r}; expected {kit_script.FORMAT!r}"
            )
        if document.get("format_version") != kit_script.FORMAT_VERSION:
            raise LatencyTableError(
                f"{path.name}: format_version is {document.get('format_version')!r}; "
                f"this version of pnag reads {kit_script.FORMAT_VERSION}"
            )
        if not isinstance(document.get("space"), str) or not isinstance(document.get("device"), dict):
            raise LatencyTableError(f"{path.name}: space must be a text and device an object")
        return cls(
            space=document["space"],
            device=document["device"],
            host_load=document.get("host_load"),
            measured_at=document.get("measured_at"),
            is_complete=document.get("complete") is True,
            calibration=[str(encoding) for encoding in document.get("calibration") or ()],
            **{
                group: _parse_samples(document.get(group), f"{path.name}: {group}")
                for group in ("layers", "networks", "overhead")
            },
        )


def _parse_samples(raw: Any, where: str) -> dict[str, list[Sample]]:
    if not isinstance(raw, dict):
        raise LatencyTableError(f"{where} must be an object of name -> {{samples_ms}}")
    parsed = {}
    for name, entry in raw.items():
        times = entry.get("samples_ms") if isinstance(entry, dict) else None
        if not isinstance(times, list) or not times or not all(is_number(t) and t > 0 for t in times):
            raise LatencyTableError(f"{where}.{name}: samples_ms must be a non-empty list of numbers above 0")
        clocks = entry.get("clock_ms", [0.0] * len(times))
        if (
            not isinstance(clocks, list)
            or len(clocks) != len(times)
            or not all(is_number(c) and c >= 0 for c in clocks)
        ):
            raise LatencyTableError(f"{where}.{name}: clock_ms must be one number >= 0 per sample")
        parsed[name] = [(float(t), float(c)) for t, c in zip(times, clocks, strict=True)]
    return parsed


def measure(
    measurements: Measurements,
    setup: Setup,
    plan: Plan,
    *,
    layers: Iterable[Layer] = (),
    networks: Mapping[str, Sequence[Layer]] | None = None,
    save_to: Path | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    **hooks: Any,
) -> bool:
    """Time what is asked and not yet done, adding to `measurements`; returns whether all is done.

    Args:
        networks: layers in order, by encoding.
        save_to: kept up to date every few seconds, and whatever ends the run.
        hooks: passed on to `time_interleaved`; tests put a clock and a session of their own there.
    """
    items, samples = [], {}
    for group, as_user, name, chain in _wanted(layers, networks or {}):
        full_name = f"{group}/{name}"
        items.append(Item(full_name, 4 * sum(x.params for x in chain), _builder(chain, setup), as_user))
        samples[full_name] = list(getattr(measurements, group).get(name, []))
    load = HostLoad()
    measurements.measured_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def save() -> None:
        for full_name, times in samples.items():
            group, _, name = full_name.partition("/")
            if times:
                getattr(measurements, group)[name] = times
        measurements.host_load = {**load.report(), **kit_script.spread_report(samples)}
        if save_to:
            measurements.save(save_to)

    with kit_script.pinned(setup.threads) as is_pinned:
        try:
            if setup.on_cpu and "probe" not in hooks:
                hooks["probe"] = kit_script.open_session(Item(kit_script.PROBE, 0, _probe_model), Setup())
            measurements.is_complete = kit_script.time_interleaved(
                items, setup, plan, samples, save=save, progress=progress, **hooks
            )
        except kit_script.SetupError as exc:
            raise LatencyTableError(str(exc)) from None
        assert measurements.host_load is not None
        measurements.host_load["pinned"] = is_pinned
    if save_to:
        measurements.save(save_to)
    return measurements.is_complete


def _wanted(
    layers: Iterable[Layer], networks: Mapping[str, Sequence[Layer]]
) -> Iterable[tuple[str, bool, str, Sequence[Layer]]]:
    yield "overhead", False, BOUND, ()
    yield "overhead", True, AS_USER, ()
    for layer in layers:
        yield "layers", False, layer.key, (layer,)
    for encoding, chain in networks.items():
        yield "networks", True, encoding, chain


def _builder(chain: Sequence[Layer], setup: Setup) -> Callable[[], bytes]:
    def build() -> bytes:
        from pnag.trainer.latency import graphs

        model = graphs.chain_graph(chain, batch_size=setup.batch_size) if chain else graphs.empty_graph()
        if setup.precision == "int8" and chain:
            from pnag.trainer.latency.quantize import quantize

            return quantize(model)
        return bytes(model.SerializeToString())

    return build


def _probe_model() -> bytes:
    from pnag.trainer.latency import graphs

    return bytes(graphs.clock_graph().SerializeToString())


def to_table(
    measurements: Measurements, *, base: LatencyTable | None = None, source: str | None = None
) -> LatencyTable:
    """The latency table of what was measured, on top of `base`'s layers if given.

    Raises:
        LatencyTableError: if the empty sessions or every layer are missing.
    """
    for kind in (BOUND, AS_USER):
        if not measurements.overhead.get(kind):
            raise LatencyTableError(f"measurements of {measurements.device.get('name')}: overhead.{kind} is missing")
    if not measurements.layers and base is None:
        raise LatencyTableError(f"measurements of {measurements.device.get('name')} hold no finished layer; run on")
    # Layers measured now join those measured before at the clock that held then.
    clock = float((base.host_load or {}).get("clock_probe_ms", 0) if base and base.layers else 0)
    clock = clock or kit_script.median_clock(measurements.layers)

    def ms(samples: list[Sample]) -> float:
        return kit_script.lower_quartile(kit_script.at_clock(samples, clock))

    between_layers = ms(measurements.overhead[BOUND])
    layers = dict(base.layers) if base else {}
    for key, samples in measurements.layers.items():
        net = ms(samples) - between_layers
        if net < LEAST_MS:
            logger.warning("layer %s is no slower than an empty session; it counts as %g ms", key, LEAST_MS)
        spread = kit_script.spread(kit_script.at_clock(samples, clock))
        layers[key] = LayerLatency(round(max(net, LEAST_MS), 6), len(samples), round(spread, 4))
    known = Device.__dataclass_fields__
    return LatencyTable(
        space=measurements.space,
        device=Device(**{k: v for k, v in measurements.device.items() if k in known}),
        statistic=STATISTIC,
        layers=layers,
        overhead_ms=round(ms(measurements.overhead[AS_USER]), 6),
        measured_at=measurements.measured_at,
        host_load={**(measurements.host_load or {}), **({"clock_probe_ms": clock} if clock else {})} or None,
        source=source,
    )


def implausible_layers(layers: Iterable[Layer], table: LatencyTable) -> list[str]:
    """Warnings that name entries no device would give: a larger kernel far faster than its smaller twin."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.key in table.layers:
            groups.setdefault(re.sub(r"-kernel:\d+", "", layer.key), []).append(layer)
    warnings = []
    for twins in groups.values():
        twins.sort(key=lambda layer: layer.kernel_size)
        for small, large in zip(twins, twins[1:], strict=False):
            fast, slow = table.layers[large.key].ms, table.layers[small.key].ms
            if fast < TWIN_RATIO * slow:
                warnings.append(
                    f"layer {large.key} takes {fast:g} ms, its twin with kernel {small.kernel_size} takes {slow:g} ms; "
                    "measure both again"
                )
    if table.layers and statistics.median(entry.ms for entry in table.layers.values()) < SECONDS_SUSPECTED_BELOW_MS:
        warnings.append(
            f"half of the layers take less than {SECONDS_SUSPECTED_BELOW_MS:g} ms; are these seconds? A table is in ms"
        )
    return warnings


def slug(text: str) -> str:
    """Text as part of a file name: lower-case letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")

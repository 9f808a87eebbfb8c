"""A search space's layers, or whole networks, timed on this machine: a latency table from what `timing` measured."""

import logging
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pnag.models.cost.latency_table import Device, LatencyTable, LayerLatency
from pnag.models.errors import LatencyTableError
from pnag.models.space.layers import Layer
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.latency.timing.host import Setup, describe_device
from pnag.trainer.latency.timing.measurements import AS_USER, BOUND, Measurements
from pnag.trainer.latency.timing.rounds import MIN_ROUNDS, Item, Plan, RoundsDone
from pnag.trainer.latency.timing.samples import Sample, at_clock, lower_quartile, median_clock, spread

logger = logging.getLogger(__name__)

STATISTIC = "lower_quartile_of_rounds_at_median_clock"
"""Of each round the fastest of three runs; see timing/samples.py."""
LEAST_MS = 1e-4
"""The time of a layer that is no slower than an empty session: less cannot be told apart."""
LARGER_KERNEL_RATIO = 0.8
SECONDS_SUSPECTED_BELOW_MS = 0.003


@dataclass(frozen=True)
class Run:
    """The time a command may measure, and whom it tells what.

    Attributes:
        rounds: per graph at most.
        stop_after_s: stop in good order, to be resumed by the same command; None means never.
        progress: told after each visit to a graph.
        say: told what a person should know at once.
        min_rounds: no graph stops earlier, however steady.
    """

    rounds: int
    stop_after_s: float | None = None
    progress: Callable[[RoundsDone], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None
    min_rounds: int = MIN_ROUNDS


def measure_space(
    space: SearchSpace, setup: Setup, run: Run, out: Path | None, *, device_name: str | None, again: bool
) -> tuple[LatencyTable, Path, int]:
    """Measure the layers of a space that the table at `out` lacks, or all `again`, and write the table.

    Returns:
        The table, where it is, and how many layers were measured now.

    Raises:
        LatencyTableError: if the table is of another space or device, the graphs cannot be timed as asked, or the time
            was not enough: what is done is kept then.
    """
    device = describe_device(setup, device_name)
    path = out or Path("latency_tables") / f"{space.name}--{slug(device['name'])}.json"
    base = LatencyTable.load(path) if path.exists() and not again else None
    if base is not None:
        base.check_space(space)
        different = [
            f"{key} is {value!r}, here {device.get(key)!r}"
            for key, value in vars(base.device).items()
            if value != device.get(key)
        ]
        if different:
            raise LatencyTableError(
                f"{path} is of another device ({'; '.join(different)}); choose another --out, or --again to replace it"
            )
    layers = [layer for layer in space.distinct_layers() if base is None or layer.key not in base.layers]
    if base is not None and not layers:
        return base, path, 0
    partial = path.with_name(path.name + ".partial")
    measurements = measure(space, device, setup, run, layers=layers, partial=partial)
    table = to_table(measurements, base=base)
    table.save(path)
    partial.unlink(missing_ok=True)
    return table, path, len(layers)


def measure_networks(
    device: Device, space: SearchSpace, encodings: Sequence[str], run: Run, path: Path, what: str
) -> Measurements:
    """Time whole networks on a table's own device; a file `what`.partial beside `path` holds them until all are done.

    Raises:
        LatencyTableError: if this is another device, or the time was not enough.
    """
    setup, here = same_device(device)
    partial = path.with_name(f"{path.name}.{what}.partial")
    run = replace(run, min_rounds=run.rounds // 2)
    measurements = measure(space, here, setup, run, networks=encodings, partial=partial)
    partial.unlink(missing_ok=True)
    measurements.networks = {encoding: measurements.networks[encoding] for encoding in encodings}
    return measurements


def same_device(device: Device) -> tuple[Setup, dict[str, Any]]:
    """The way a device was measured, and this machine's description when it is measured so.

    Raises:
        LatencyTableError: if this is another machine, or nobody knows how the device was measured.
    """
    if None in (device.threads, device.batch_size, device.execution_provider, device.precision):
        raise LatencyTableError(
            f"the table of {device.name} does not say how it was measured; learn it with `pnag latency learn`"
        )
    setup = Setup(
        int(device.threads or 0), int(device.batch_size or 0), str(device.execution_provider), str(device.precision)
    )
    here = describe_device(setup, device.name)
    if device.processor != here["processor"]:
        raise LatencyTableError(
            f"the table was measured on {device.processor!r}, this is {here['processor']!r}; run it there, "
            "or learn it from whole networks with `pnag latency learn`"
        )
    return setup, here


def measure(
    space: SearchSpace,
    device: dict[str, Any],
    setup: Setup,
    run: Run,
    *,
    layers: Iterable[Layer] = (),
    networks: Iterable[str] = (),
    partial: Path | None = None,
    **hooks: Any,
) -> Measurements:
    """Time layers, whole networks and empty sessions.

    Args:
        networks: encodings.
        partial: a file that is kept up to date; what an interrupted run left there is not measured again.
        hooks: passed on to `Measurements.measure`.

    Raises:
        LatencyTableError: if `run.stop_after_s` ends it before all is done, or it cannot be timed as asked.
    """
    measurements = Measurements(space.name, device)
    if partial is not None and partial.exists():
        measurements = Measurements.resume(partial, space.name, device)
        run.say(f"going on from {partial}")
    wanted: list[tuple[str, Sequence[Layer]]] = [(f"overhead/{BOUND}", ()), (f"overhead/{AS_USER}", ())]
    wanted += [(f"layers/{layer.key}", (layer,)) for layer in layers]
    wanted += [(f"networks/{encoding}", space.layers(encoding)) for encoding in networks]
    items = [
        Item(
            name, 4 * sum(layer.params for layer in chain), _builder(chain, setup),
            as_user=name.startswith("networks/") or name == f"overhead/{AS_USER}",
        )
        for name, chain in wanted
    ]  # fmt: skip
    plan = Plan(rounds=run.rounds, stop_after_s=run.stop_after_s, min_rounds=run.min_rounds)
    if not measurements.measure(items, setup, plan, _probe_model, save_to=partial, progress=run.progress, **hooks):
        raise LatencyTableError(f"stopped after {run.stop_after_s:g} s; run the same command to go on")
    return measurements


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
    clock = clock or median_clock(measurements.layers)

    def ms(samples: list[Sample]) -> float:
        return lower_quartile(at_clock(samples, clock))

    between_layers = ms(measurements.overhead[BOUND])
    layers = dict(base.layers) if base else {}
    for key, samples in measurements.layers.items():
        net = ms(samples) - between_layers
        if net < LEAST_MS:
            logger.warning("layer %s is no slower than an empty session; it counts as %g ms", key, LEAST_MS)
        scatter = spread(at_clock(samples, clock))
        layers[key] = LayerLatency(round(max(net, LEAST_MS), 6), len(samples), round(scatter, 4))
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
    """Warnings that name entries no device would give: a larger kernel far faster than the smaller one."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.key in table.layers:
            groups.setdefault(re.sub(r"-kernel:\d+", "", layer.key), []).append(layer)
    warnings = []
    for alike in groups.values():
        alike.sort(key=lambda layer: layer.kernel_size)
        for small, large in zip(alike, alike[1:], strict=False):
            fast, slow = table.layers[large.key].ms, table.layers[small.key].ms
            if fast < LARGER_KERNEL_RATIO * slow:
                warnings.append(
                    f"layer {large.key} takes {fast:g} ms, the same with kernel {small.kernel_size} takes {slow:g} ms; "
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

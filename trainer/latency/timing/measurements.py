"""Measurements of one device, kept as they come: a break costs nothing, the next run reads them and goes on.

The file is the same wherever it is written: {format, space, device, layers: {key: {samples_ms, clock_ms}},
networks: {encoding: ...}, overhead: {bound, as_user}}.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pnag.models.errors import LatencyTableError
from pnag.trainer.latency.timing.host import HostLoad, Setup, pinned
from pnag.trainer.latency.timing.rounds import Item, Plan, RoundsDone, open_session, time_interleaved
from pnag.trainer.latency.timing.samples import Sample, spread_report

FORMAT = "pnag-measurements"
FORMAT_VERSION = 1
GROUPS = ("layers", "networks", "overhead")
BOUND, AS_USER = "bound", "as_user"
"""The two overheads: of an empty session between layers (input and output in place), and of a user's plain call."""


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
        document: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "space": self.space,
            "device": self.device,
            "complete": self.is_complete,
            "calibration": self.calibration,
            "measured_at": self.measured_at,
            "host_load": self.host_load,
        }
        for group in GROUPS:
            rounds = getattr(self, group)
            document[group] = {
                name: {"samples_ms": [ms for ms, _ in times], "clock_ms": [clock for _, clock in times]}
                for name, times in rounds.items()
                if times
            }
        _write_json(path, document)

    @classmethod
    def load(cls, path: Path) -> Measurements:
        """Read a measurements file, finished or not.

        Raises:
            LatencyTableError: naming the file and the entry that cannot be used.
        """
        try:
            document = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        except OSError as exc:
            raise LatencyTableError(f"{path}: cannot read the measurements ({exc.strerror})") from None
        except (ValueError, RecursionError) as exc:
            raise LatencyTableError(f"{path.name}: not valid JSON ({exc}); was the file cut off?") from None
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            found = document.get("format") if isinstance(document, dict) else None
            raise LatencyTableError(f"{path.name}: format is {found!r}; expected {FORMAT!r}")
        if document.get("format_version") != FORMAT_VERSION:
            raise LatencyTableError(
                f"{path.name}: format_version is {document.get('format_version')!r}; "
                f"this version of pnag reads {FORMAT_VERSION}"
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
            **{group: _parse_samples(document.get(group), f"{path.name}: {group}") for group in GROUPS},
        )

    @classmethod
    def resume(cls, path: Path, space: str, device: dict[str, Any]) -> Measurements:
        """Measurements that an interrupted run left in the file, or none yet.

        Raises:
            LatencyTableError: if the file is of another space or device.
        """
        if not path.exists():
            return cls(space, device)
        found = cls.load(path)
        if found.space != space or found.device != device:
            raise LatencyTableError(
                f"{path} is {'a' if found.is_complete else 'an unfinished'} run of {found.space} on "
                f"{found.device.get('name')}, not of {space} on {device['name']}; repeat its options, or move it away"
            )
        return found

    def measure(
        self,
        items: Sequence[Item],
        setup: Setup,
        plan: Plan,
        load_probe: Callable[[], Any],
        *,
        save_to: Path | None = None,
        progress: Callable[[RoundsDone], None] = lambda _: None,
        **hooks: Any,
    ) -> bool:
        """Add rounds of what is not yet done; returns whether all is done.

        Args:
            items: named `group/name`.
            load_probe: gives the graph of the clock probe.
            save_to: kept up to date every few seconds, and whatever ends the run.
            hooks: passed on to `time_interleaved`; tests put a clock and a session of their own there.

        Raises:
            LatencyTableError: as `open_session`.
        """
        samples: dict[str, list[Sample]] = {}
        for item in items:
            group, _, name = item.name.partition("/")
            samples[item.name] = list(getattr(self, group).get(name, []))
        load = HostLoad()
        self.measured_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

        def save() -> None:
            for full_name, times in samples.items():
                group, _, name = full_name.partition("/")
                if times:
                    getattr(self, group)[name] = times
            self.host_load = {**load.report(), **spread_report(samples), "pinned": is_pinned}
            if save_to:
                self.save(save_to)

        with pinned(setup.threads) as is_pinned:
            if setup.on_cpu and "probe" not in hooks:
                hooks["probe"] = open_session(Item("clock", 0, load_probe), Setup())
            self.is_complete = time_interleaved(items, setup, plan, samples, save=save, progress=progress, **hooks)
        if save_to:
            self.save(save_to)
        return self.is_complete


def _parse_samples(raw: Any, where: str) -> dict[str, list[Sample]]:
    if not isinstance(raw, dict):
        raise LatencyTableError(f"{where} must be an object of name -> {{samples_ms}}")
    parsed = {}
    for name, entry in raw.items():
        times = entry.get("samples_ms") if isinstance(entry, dict) else None
        if not isinstance(times, list) or not times or not all(_is_number(t) and t > 0 for t in times):
            raise LatencyTableError(f"{where}.{name}: samples_ms must be a non-empty list of numbers above 0")
        clocks = entry.get("clock_ms", [0.0] * len(times))
        if (
            not isinstance(clocks, list)
            or len(clocks) != len(times)
            or not all(_is_number(c) and c >= 0 for c in clocks)
        ):
            raise LatencyTableError(f"{where}.{name}: clock_ms must be one number >= 0 per sample")
        parsed[name] = [(float(t), float(c)) for t, c in zip(times, clocks)]  # noqa: B905 (3.9)
    return parsed


def _refuse_constant(text: str) -> float:
    raise ValueError(f"holds {text}, which is not a number")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)  # noqa: UP038


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write beside the file, then rename over it: a reader sees it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="." + path.name + ".", dir=str(path.parent))
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=1, allow_nan=False)
            file.write("\n")
        os.chmod(name, 0o644)
        os.replace(name, str(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise

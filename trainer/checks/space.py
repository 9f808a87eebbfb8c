"""Checks that a search space keeps the promises of `SearchSpace`, for `pnag spaces check NAME`.

Each check samples architectures and compares two ways to the same thing, so that a space from a stranger's package
fails here, with the architecture named, and not as a bundle that is quietly wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pnag.models.cost.additive import macs_cost, params_cost
from pnag.models.errors import EncodingError
from pnag.models.space.registry import space_from_dict
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens

NUM_SAMPLES = 64
NUM_BUILT = 3


@dataclass(frozen=True)
class Result:
    """One check, and what it saw."""

    name: str
    passed: bool
    detail: str


def check_space(space: SearchSpace, seed: int = 0) -> list[Result]:
    """Run every check that applies; one that raises has failed."""
    rng = np.random.default_rng(seed)
    tokens_ND = space.sample(NUM_SAMPLES, rng)
    checks: dict[str, Callable[[SearchSpace, Tokens], str]] = {
        "samples are architectures": _samples,
        "encoding and tokens undo each other": _round_trips,
        "inactive decisions have no say": _activity,
        "the document rebuilds the space": _document,
    }
    if space.has_layers:
        checks |= {
            "costs add up over layers": _cost_sums,
            "layer keys tell layers apart": _layer_keys,
            "built networks match their layers": _networks,
        }
    results = []
    for name, check in checks.items():
        try:
            results.append(Result(name, True, check(space, tokens_ND)))
        except AssertionError as exc:
            results.append(Result(name, False, str(exc)))
        except Exception as exc:  # a stranger's code may raise anything; it is what we are here to find
            results.append(Result(name, False, f"{type(exc).__name__}: {exc}"))
    return results


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _samples(space: SearchSpace, tokens_ND: Tokens) -> str:
    space.validate(tokens_ND)
    _expect(bool(space.allowed(tokens_ND).all()), "a sampled architecture is forbidden")
    return f"{len(np.unique(tokens_ND, axis=0))} different ones of {space.num_architectures:.3g}"


def _round_trips(space: SearchSpace, tokens_ND: Tokens) -> str:
    encodings = []
    for tokens_D in tokens_ND:
        encoding = space.encode(tokens_D)
        back_D = space.decode(encoding)
        _expect(np.array_equal(back_D, tokens_D), f"{encoding!r} decodes to {back_D.tolist()}, not {tokens_D.tolist()}")
        _expect("|" not in encoding and encoding == encoding.strip(), f"{encoding!r} holds | or outer spaces")
        encodings.append(encoding)
    distinct = len(np.unique(tokens_ND, axis=0))
    _expect(len(set(encodings)) == distinct, f"{distinct} architectures have {len(set(encodings))} encodings")
    return f"e.g. {encodings[0]}"


def _activity(space: SearchSpace, tokens_ND: Tokens) -> str:
    count = 0
    for tokens_D in tokens_ND:
        values = space._values(tokens_D)
        for index, token in enumerate(tokens_D):
            if token != INACTIVE:
                continue
            filled = list(values)
            filled[index] = space.decisions[index].options[0]
            if _is_refused(space, filled):
                count += 1
                continue
            text = space.format_values(filled)
            _expect(
                space.architecture(text).encoding == space.encode(tokens_D),
                f"{text!r} gives {space.decisions[index].name} a value where it is inactive, and is another network",
            )
    conditional = sum(bool(d.active_if) for d in space.decisions)
    return f"{conditional} conditional decisions, {count} wrong spellings refused"


def _is_refused(space: SearchSpace, values: list[int | str | None]) -> bool:
    try:
        space.decode(space.format_values(values))
    except EncodingError:
        return True
    return False


def _document(space: SearchSpace, tokens_ND: Tokens) -> str:
    again = space_from_dict(space.to_dict())
    _expect(again.to_dict() == space.to_dict(), "to_dict of the rebuilt space differs")
    encoding = space.encode(tokens_ND[0])
    _expect(np.array_equal(again.decode(encoding), tokens_ND[0]), f"{encoding!r} means another network there")
    return f"{len(space.decisions)} decisions"


def _cost_sums(space: SearchSpace, tokens_ND: Tokens) -> str:
    macs_N, params_N = macs_cost(space)(tokens_ND), params_cost(space)(tokens_ND)
    for tokens_D, macs, params in zip(tokens_ND, macs_N, params_N, strict=True):
        encoding = space.encode(tokens_D)
        layers = space.layers(encoding)
        _expect(macs > 0 and params > 0, f"{encoding}: {macs:g} MACs and {params:g} parameters")
        _expect(macs == sum(layer.macs for layer in layers), f"{encoding}: the MACs of its layers are not {macs:g}")
        _expect(
            params == sum(layer.params for layer in layers), f"{encoding}: its layers have not {params:g} parameters"
        )
    return f"{macs_N.min() / 1e6:.4g} to {macs_N.max() / 1e6:.4g} M MACs"


def _layer_keys(space: SearchSpace, _tokens_ND: Tokens) -> str:
    layers = space.distinct_layers()
    sizes: dict[str, tuple[int, int]] = {}
    for tokens in space.sample(NUM_SAMPLES, np.random.default_rng(1)):
        for layer in space.layers(space.encode(tokens)):
            seen = sizes.setdefault(layer.key, (layer.macs, layer.params))
            _expect(seen == (layer.macs, layer.params), f"two layers of different size share the key {layer.key}")
    missing = set(sizes) - {layer.key for layer in layers}
    _expect(not missing, f"distinct_layers() lacks {sorted(missing)[:1]}: cost groups and layers() disagree")
    return f"{len(layers)} distinct layers"


def _networks(space: SearchSpace, tokens_ND: Tokens) -> str:
    """Build some networks as ONNX, count their MACs node by node, and run them once."""
    from pnag.trainer.checks.network import count_and_run

    counted = []
    for tokens_D in tokens_ND[:NUM_BUILT]:
        encoding = space.encode(tokens_D)
        layers = space.layers(encoding)
        macs, params = count_and_run(layers)
        expected = sum(layer.macs for layer in layers)
        _expect(macs == expected, f"{encoding}: the built network does {macs} MACs, its layers say {expected}")
        weights = sum(layer.params for layer in layers)
        _expect(params <= weights, f"{encoding}: the built network stores {params} numbers, its layers say {weights}")
        counted.append(macs)
    return f"{len(counted)} networks run, MACs counted in their graphs are the layers': {counted}"

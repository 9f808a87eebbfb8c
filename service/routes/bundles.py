"""The loaded bundles and their search spaces."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast

from fastapi import APIRouter, Response

from pnag.models.space.registry import get_space
from pnag.service.contract.bodies import to_json
from pnag.service.contract.openapi import JSON, problems
from pnag.service.contract.schemas import BundleBody, BundlesBody, SearchSpaceBody
from pnag.service.engine.bundles import Catalogue
from pnag.service.engine.loaded_bundle import LoadedBundle
from pnag.service.routes.dependencies import BundlesDep

router = APIRouter(tags=["bundles"])


@router.get("/bundles", response_model=BundlesBody)
async def bundles(bundles: BundlesDep) -> Response:
    """Every loaded bundle: its device, what it promises, how well its table and its evaluator did.

    The one of `PNAG_DEFAULT_BUNDLE` comes first.
    """
    catalogue = bundles.catalogue
    ordered = sorted(catalogue.bundles, key=lambda bundle: not catalogue.answers_unnamed(bundle))
    body: BundlesBody = {"bundles": [bundle_body(catalogue, bundle) for bundle in ordered]}
    return Response(to_json(body), media_type=JSON)


@router.get("/search-spaces/{name}", response_model=SearchSpaceBody, responses=problems(404, 422))
async def search_space(name: str, bundles: BundlesDep) -> Response:
    """The decisions of a search space: a loaded bundle's as it was trained, any other as it ships."""
    spaces = {bundle.space.name: bundle.space for bundle in reversed(bundles.catalogue.bundles)}
    space = spaces.get(name) or get_space(name)
    document = space.to_dict()
    body: dict[str, Any] = {
        "name": space.name,
        "num_architectures": str(space.num_architectures),
        "decisions": document["decisions"],
    }
    return Response(to_json(body), media_type=JSON)


def bundle_body(catalogue: Catalogue, bundle: LoadedBundle) -> BundleBody:
    """One bundle as `/bundles` lists it."""
    manifest, table = bundle.bundle.manifest, bundle.bundle.latency_table
    factor = table.bound_factor(table.default_coverage)
    measured_at = bundle.table_measured_at
    age = None if measured_at is None else (datetime.now(UTC) - measured_at).total_seconds() / 86_400
    return cast(
        BundleBody,
        {
            "name": bundle.name,
            "version": bundle.version,
            "digest": bundle.digest,
            "is_default": catalogue.is_default(bundle),
            "search_space": bundle.space.name,
            "device": asdict(table.device),
            "smallest_feasible_ms": bundle.generator.smallest_feasible_ms(),
            "largest_useful_ms": round(bundle.generator.range_ms[1] * factor, 4),
            "coverage": table.default_coverage,
            "table_check": table.check,
            "table_measured_at": table.measured_at,
            "table_age_days": None if age is None else round(age, 2),
            "created_at": manifest.get("created_at"),
            "accuracy": manifest["accuracy"],
            "metrics": manifest.get("metrics", {}),
            "has_weights": bundle.bundle.weights is not None,
        },
    )

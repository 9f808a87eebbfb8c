"""Every environment variable of the service, typed. Prefix `PNAG_`; `.env.example` lists the same fields (tested)."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.errors import PnagError
from models.runtime import DEFAULT_NUM_CANDIDATES

ENV_PREFIX = "PNAG_"


class SettingsError(PnagError):
    """A setting has a value that it cannot have."""


class Settings(BaseSettings):
    """How the service runs. Read once, when the application is built; never changed afterwards."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    bundles: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(Path("bundles"),),
        min_length=1,
        description="Bundle folders, or folders that hold bundle folders; separated by commas.",
    )
    default_bundle: str | None = Field(
        default=None, description="Answers requests that name no bundle. Unset: the only one there is."
    )
    num_candidates: int = Field(
        default=DEFAULT_NUM_CANDIDATES,
        ge=1,
        le=1024,
        description="Networks sampled for each budget. More is slower and seldom better beyond 32.",
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")

    max_batch_size: int = Field(default=32, ge=1, le=1024, description="Budgets answered in one run of the generator.")
    max_waiting: int = Field(
        default=128, ge=1, description="Budgets that may wait for a run; further ones are answered 503 at once."
    )
    max_items: int = Field(
        default=256, ge=1, le=10_000, description="Budgets in one /generate/batch, encodings in one /predict."
    )
    cache_entries: int = Field(
        default=10_000, ge=0, description="Answers kept in memory, about 1.5 kB each; 0 keeps none."
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log level."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="json for machines, text for people; auto is text on a terminal."
    )

    @field_validator("bundles", mode="before")
    @classmethod
    def _split_bundles(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def load_settings(**given: Any) -> Settings:
    """Settings from the environment, with those named here in its place.

    Raises:
        SettingsError: naming each variable that is wrong.
    """
    try:
        return Settings(**given)
    except ValidationError as exc:
        wrong = [f"{ENV_PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in exc.errors()]
        raise SettingsError("; ".join(wrong)) from None

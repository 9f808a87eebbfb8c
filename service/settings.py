"""Every environment variable of the service, typed. Prefix `PNAG_`; `.env.example` lists the same fields (tested)."""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from pnag.models.answer.runtime import DEFAULT_NUM_CANDIDATES
from pnag.models.errors import PnagError

ENV_PREFIX = "PNAG_"


class SettingsError(PnagError):
    """A setting has a value that it cannot have."""


class Settings(BaseSettings):
    """Settings of the service. Read once, when the application is built; never changed afterwards."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    # -- bundles
    bundles: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(Path("bundles"),),
        min_length=1,
        description="Bundle folders, or folders that hold bundle folders; separated by commas.",
    )
    default_bundle: str | None = Field(
        default=None, description="Answers requests that name no bundle. Unset: the only one there is."
    )
    watch_interval_s: float = Field(
        default=5, ge=0, description="How often the folders are looked at for new bundles; 0 only when told to reload."
    )
    num_candidates: int = Field(
        default=DEFAULT_NUM_CANDIDATES,
        ge=1,
        le=1024,
        description="Networks sampled for each budget. More is slower and seldom better beyond 32.",
    )

    # -- listening
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Serve /admin and /metrics on this port, and only there. Unset: on PORT.",
    )
    workers: int = Field(default=1, ge=1, le=64, description="Processes that share the port.")

    # -- load
    inference_threads: int = Field(
        default=2, ge=1, le=64, description="Runs of the generator at a time; more than cores slow each other down."
    )
    max_batch_size: int = Field(default=16, ge=1, le=1024, description="Budgets answered in one run of the generator.")
    max_waiting: int = Field(
        default=128, ge=1, description="Budgets that may wait for a run; further ones are answered 503 at once."
    )
    max_waiting_busy: int = Field(
        default=16, ge=1, description="The same once somebody had to be refused, until nobody has been for a second."
    )
    max_items: int = Field(
        default=256, ge=1, le=10_000, description="Budgets in one /generate/batch, encodings in one /predict."
    )
    max_body_bytes: int = Field(default=262_144, ge=1024, description="Largest request body.")
    request_timeout_s: float = Field(
        default=10, gt=0, description="A request that takes longer is answered 503; a caller may ask for less."
    )
    receive_timeout_s: float = Field(
        default=10, gt=0, description="A connection that has not sent a whole request by then is closed."
    )
    keep_alive_s: float = Field(default=75, gt=0, description="An idle connection is kept open for so long.")
    max_connections: int = Field(default=4096, ge=1, description="Further connections are closed at once.")
    rate_limit_per_s: float = Field(
        default=0,
        ge=0,
        description="Requests per second for each API key, or address where keys are off; 0 is no limit.",
    )

    # -- cache
    cache_entries: int = Field(
        default=10_000, ge=0, description="Answers kept in memory, about 1.5 kB each; 0 keeps none."
    )
    model_cache: Path | None = Field(
        default=None,
        description="Folder for ONNX files of networks asked for. Unset: a temporary one, gone at the end.",
    )
    model_cache_mb: int = Field(
        default=32, ge=0, description="Megabytes of them to keep; what was asked for longest ago goes first."
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis that replicas share answers in, e.g. redis://:password@redis:6379/0. Unset: none.",
    )
    redis_timeout_ms: int = Field(default=25, ge=1, le=1000, description="Redis that is slower counts as gone.")
    redis_ttl_s: int = Field(default=86_400, ge=1, description="How long an answer stays in Redis.")
    redis_namespace: str = Field(default="pnag", min_length=1, description="Start of every key in Redis.")

    feedback_file: Path | None = Field(
        default=None,
        description="SQLite file that keeps reported latencies where there is no Redis. Unset: until the process ends.",
    )

    # -- who may ask
    api_keys: SecretStr | None = Field(
        default=None, description="API keys as `name:scope:sha256`, separated by commas; `pnag api-key` makes one."
    )
    api_keys_file: Path | None = Field(
        default=None, description="The same, one per line; read again on every reload, so keys can be replaced."
    )
    allow_anonymous: bool = Field(
        default=False, description="Serve without API keys on an address that others can reach."
    )

    # -- what is told
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log level."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="json for machines, text for people; auto is text on a terminal."
    )
    log_requests_per_s: int = Field(
        default=20,
        ge=0,
        description="Request lines per second in the log; further ones are counted, crashes always told.",
    )

    # -- going away
    drain_s: float = Field(
        default=0, ge=0, description="On SIGTERM, answer for so long while /readyz says no, before closing the port."
    )
    grace_s: int = Field(default=20, ge=0, description="Then requests under way have so long to finish.")

    @field_validator("bundles", mode="before")
    @classmethod
    def _split_bundles(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any, info: Any) -> Any:
        """`PNAG_REDIS_URL=` in an environment file means no Redis."""
        return cls.model_fields[info.field_name].get_default() if value == "" else value

    @model_validator(mode="after")
    def _refuse_to_be_open(self) -> Self:
        if not (self.is_local or self.has_keys or self.allow_anonymous):
            raise ValueError(
                f"host {self.host} can be reached by others and there are no API keys: set PNAG_API_KEYS or "
                "PNAG_API_KEYS_FILE, or PNAG_ALLOW_ANONYMOUS=true to let anybody ask"
            )
        return self

    @property
    def has_keys(self) -> bool:
        """True if callers must show an API key."""
        return self.api_keys is not None or self.api_keys_file is not None

    @property
    def is_local(self) -> bool:
        """True if only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def load_settings(**given: Any) -> Settings:
    """Settings from the environment, with those named here in its place.

    Raises:
        SettingsError: naming each variable that is wrong.
    """
    try:
        return Settings(**given)
    except ValidationError as exc:
        raise SettingsError("; ".join(_explain(error) for error in exc.errors())) from None


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"]).upper()
    return f"{ENV_PREFIX}{name}: {error['msg']}" if name else str(error["msg"]).removeprefix("Value error, ")

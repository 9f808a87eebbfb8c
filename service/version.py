"""The version that the OpenAPI document and `/v2` tell; equal to pyproject.toml's (tested)."""

VERSION = "0.1.0"

"""Settings: .env.example says the same, and nonsense is refused."""

import ast
import re
from pathlib import Path

import pytest

from pnag.service.settings import ENV_PREFIX, Settings, SettingsError, load_settings

ENV_EXAMPLE = Path(__file__).parents[2] / ".env.example"


def test_env_example_lists_every_setting_with_its_description_and_default() -> None:
    lines = ENV_EXAMPLE.read_text().splitlines()
    listed = {}
    for description, line in zip(lines, lines[1:], strict=False):
        if match := re.fullmatch(rf"#? ?{ENV_PREFIX}(\w+)=(.*)", line):
            listed[match[1].lower()] = (description.removeprefix("# "), match[2])
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        text = ",".join(map(str, default)) if isinstance(default, tuple) else "" if default is None else str(default)
        expected[name] = (field.description, text.lower() if isinstance(default, bool) else text)
    assert listed == expected


def test_env_example_is_read_back_as_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for line in ENV_EXAMPLE.read_text().splitlines():
        if line.startswith(ENV_PREFIX):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, value)
    assert Settings() == Settings.model_construct()


def test_every_setting_is_read_somewhere() -> None:
    """One that is not promises what nothing keeps. A reading is `settings.name`, or `self.name` in the class itself."""
    service = ENV_EXAMPLE.parent / "service"
    read = set()
    for path in service.rglob("*.py"):
        owners = ("self",) if path.name == "settings.py" else ("settings", "self._settings")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in owners:
                read.add(node.attr)
    assert set(Settings.model_fields) - read == set()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_a_public_address_without_keys_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="PNAG_API_KEYS"):
        load_settings(host=host)
    assert load_settings(host=host, allow_anonymous=True).host == host
    assert load_settings(host=host, api_keys="a:read:" + "0" * 64).has_keys


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_local_address_needs_no_keys(host: str) -> None:
    assert load_settings(host=host).is_local


def test_every_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNAG_PORT", "eighty")
    monkeypatch.setenv("PNAG_LOG_FORMAT", "xml")
    with pytest.raises(SettingsError, match=r"PNAG_PORT: .*; PNAG_LOG_FORMAT: "):
        load_settings()


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNAG_REDIS_URL", "redis://:hunter2@localhost")
    assert "hunter2" not in repr(Settings())

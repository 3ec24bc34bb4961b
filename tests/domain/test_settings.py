"""Settings from the environment and .env: what is read, and what is said of what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolbox_cli.domain.errors import ConfigurationError
from toolbox_cli.domain.settings import BUILTIN, check_endpoint_url, load_settings

NAMES = [
    "DATABASE_URL", "EMBEDDING_DIMENSION", "EMBEDDING_MODEL", "EMBEDDING_ENDPOINT_URL", "EMBEDDING_API_KEY",
    "TOOLBOX_DATA_DIR", "TOOLBOX_REQUEST_TIMEOUT", "TOOLBOX_RETRY_TIMEOUT", "TOOLBOX_LOCK_TIMEOUT_MS",
    "TOOLBOX_WAIT_TIMEOUT", "TOOLBOX_CONNECT_TIMEOUT",
]  # fmt: skip


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_nothing_set() -> None:
    settings = load_settings()
    assert settings.database_url is None
    assert settings.embedding_dimension is None
    assert settings.embedding_model is None
    assert settings.embedding_endpoint_url is None
    assert settings.api_key("EMBEDDING_API_KEY") is None
    assert settings.api_key(None) is None
    assert (settings.request_timeout, settings.retry_timeout) == (60.0, 30.0)


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "EMBEDDING_DIMENSION=768\nEMBEDDING_MODEL=from-file\nEMBEDDING_API_KEY=sk-file\nOTHER_KEY=sk-other\n"
        "SOMETHING_ELSE=1\n"
    )
    monkeypatch.setenv("EMBEDDING_MODEL", "from-environment")
    monkeypatch.setenv("EMBEDDING_DIMENSION", "")
    settings = load_settings()
    assert settings.embedding_model == "from-environment"
    assert settings.embedding_dimension == 768
    assert settings.api_key("EMBEDDING_API_KEY") == "sk-file"
    assert settings.api_key("OTHER_KEY") == "sk-other"
    monkeypatch.setenv("OTHER_KEY", "sk-environment")
    assert load_settings().api_key("OTHER_KEY") == "sk-environment"


@pytest.mark.parametrize("value", ["0", "-1", "16001", "many", "1.5"])
def test_a_dimension_that_cannot_be(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EMBEDDING_DIMENSION", value)
    with pytest.raises(ConfigurationError, match=rf"^EMBEDDING_DIMENSION is '{value}': ") as caught:
        load_settings()
    assert "EMBEDDING_DIMENSION" in (caught.value.hint or "")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("value", ["1", "16000"])
def test_dimensions_that_can_be(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("EMBEDDING_DIMENSION", value)
    assert load_settings().embedding_dimension == int(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOOLBOX_REQUEST_TIMEOUT", "0"),
        ("TOOLBOX_RETRY_TIMEOUT", "-1"),
        ("TOOLBOX_LOCK_TIMEOUT_MS", "x"),
        ("TOOLBOX_CONNECT_TIMEOUT", "1.5"),
        ("EMBEDDING_ENDPOINT_URL", "localhost:1234"),
    ],
)
def test_the_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f"^{name} is '{value}': "):
        load_settings()


def test_a_long_value_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_DIMENSION", "9" * 5000)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert len(caught.value.message) < 300


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_API_KEY", "sk-hush")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hush@h/d")
    assert "hush" not in repr(load_settings())


def test_an_env_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"EMBEDDING_MODEL=\xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"\.env"):
        load_settings()


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:1234/v1/embeddings",
        "https://api.openai.com/v1/embeddings",
        "https://x.openai.azure.com/openai/deployments/d/embeddings?api-version=2024-02-01",
        "http://[::1]:8080/v1/embeddings",
    ],
)
def test_urls_that_can_be(url: str) -> None:
    assert check_endpoint_url(f" {url}\n") == url


@pytest.mark.parametrize("text", ["builtin", "BUILTIN", " Builtin "])
def test_builtin(text: str) -> None:
    assert check_endpoint_url(text) == BUILTIN


@pytest.mark.parametrize(
    "url",
    ["", "x", "localhost:1234", "ftp://h/x", "http://", "http:///v1",
     "http://h:port/", "http://h:99999/", "http://a b/", "http://[::1/v1"],
)  # fmt: skip
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        check_endpoint_url(url)


@pytest.mark.parametrize("url", ["http://user:hush@h/v1", "https://hush@h/v1"])
def test_a_password_in_the_url_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(ValueError, match="EMBEDDING_API_KEY") as caught:
        check_endpoint_url(url)
    assert "hush" not in str(caught.value)
    monkeypatch.setenv("EMBEDDING_ENDPOINT_URL", url)
    with pytest.raises(ConfigurationError) as told:
        load_settings()
    assert "hush" not in f"{told.value.message}{told.value.hint}"

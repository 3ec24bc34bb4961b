"""Settings from the environment and ``.env``. The names without prefix are shared with the ToolBox server."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from toolbox_cli.domain.errors import ConfigurationError
from toolbox_cli.domain.models import MAX_DIMENSION

DEFAULT_MODEL = "text-embedding-nomic-embed-text-v1.5"
DEFAULT_ENDPOINT_URL = "http://localhost:1234/v1/embeddings"
DEFAULT_DIMENSION = 1536
BUILTIN = "builtin"
#: The catalogue's name of the model behind ``builtin``.
BUILTIN_MODEL = "wordllama"


class Settings(BaseSettings):
    """``None`` means "not set": what follows from that is decided where the value is used."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        env_ignore_empty=True,
        populate_by_name=True,
    )

    database_url: SecretStr | None = Field(default=None, validation_alias="DATABASE_URL")
    embedding_dimension: int | None = Field(default=None, validation_alias="EMBEDDING_DIMENSION")
    embedding_model: str | None = Field(default=None, validation_alias="EMBEDDING_MODEL")
    embedding_endpoint_url: str | None = Field(default=None, validation_alias="EMBEDDING_ENDPOINT_URL")
    embedding_api_key: SecretStr | None = Field(default=None, validation_alias="EMBEDDING_API_KEY")

    #: Where the embedded server and the logs live; the platform's user data folder when unset.
    data_dir: Path | None = Field(default=None, validation_alias="TOOLBOX_DATA_DIR")
    #: Seconds for one request to the embedding service, connecting included.
    request_timeout: float = Field(default=60.0, gt=0, validation_alias="TOOLBOX_REQUEST_TIMEOUT")
    #: Seconds after which a batch that meets only passing faults (429, 503, time-outs) is given up.
    retry_timeout: float = Field(default=30.0, ge=0, validation_alias="TOOLBOX_RETRY_TIMEOUT")
    #: Milliseconds that DDL may wait for its lock before it steps back and lets the traffic through: for so long
    #: everybody who comes after it waits behind it.
    lock_timeout_ms: int = Field(default=30, gt=0, validation_alias="TOOLBOX_LOCK_TIMEOUT_MS")
    #: Seconds to wait for another toolbox command, or for a lock that others hold, before giving up.
    wait_timeout: float = Field(default=30.0, ge=0, validation_alias="TOOLBOX_WAIT_TIMEOUT")
    #: Seconds to wait for the database to accept a connection.
    connect_timeout: int = Field(default=10, gt=0, validation_alias="TOOLBOX_CONNECT_TIMEOUT")

    @field_validator("embedding_dimension", mode="before")
    @classmethod
    def _dimension_can_be_stored(cls, value: object) -> int | None:
        if value is None:
            return None
        try:
            number = int(str(value).strip())
        except ValueError:
            number = 0
        if not 1 <= number <= MAX_DIMENSION:
            raise ValueError(f"expected an integer from 1 to {MAX_DIMENSION}")
        return number

    @field_validator("embedding_endpoint_url")
    @classmethod
    def _endpoint_is_a_url(cls, value: str | None) -> str | None:
        return None if value is None else check_endpoint_url(value)

    @cached_property
    def environment(self) -> dict[str, str]:
        """The variables that a generation's ``api_key_env`` may name: those of ``.env`` under the process's own."""
        from dotenv import dotenv_values

        from_file = {k: v for k, v in dotenv_values(".env").items() if v is not None}
        return from_file | dict(os.environ)

    def api_key(self, variable: str | None) -> str | None:
        """The key held by an environment variable, or None when it is unset or empty."""
        if variable is None:
            return None
        return self.environment.get(variable) or None


def check_endpoint_url(value: str) -> str:
    """Return the URL of an embedding service as it is to be requested, or raise ValueError with what is wrong.

    ``builtin`` stands for the model in this process. User and password in the URL are refused: a generation
    stores its endpoint, and a secret must never be stored.
    """
    from urllib.parse import urlsplit

    text = value.strip()
    if text.lower() == BUILTIN:
        return BUILTIN
    expected = "expected http(s)://HOST[:PORT]/v1/embeddings, or 'builtin'"
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port
    except ValueError as exc:
        raise ValueError(expected) from exc
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() for c in text):
        raise ValueError(expected)
    if parts.username or parts.password:
        raise ValueError("a user or password in the URL would be stored; put the key into EMBEDDING_API_KEY")
    return text


def load_settings() -> Settings:
    """Read the environment and ``.env``; raises ConfigurationError that names the variable and what was expected."""
    try:
        return Settings()
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        # A refused URL may hold a password or, in its query, a key.
        hidden = name == "EMBEDDING_ENDPOINT_URL" and any(c in str(first["input"]) for c in "@?")
        secret = hidden or name in ("DATABASE_URL", "EMBEDDING_API_KEY")
        found = "" if secret else f" is {_shorten(first['input'])}"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(
            f"{name}{found}: {message[:1].lower()}{message[1:]}",
            hint=f"Set {name} in the environment or in .env, or remove it to use the default.",
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(
            f".env in the present folder cannot be read: {exc}",
            hint="Mend its permissions or encoding (UTF-8).",
        ) from exc


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…'"

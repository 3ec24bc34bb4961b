"""What an error answer of an embedding service means: try again, send less, quarantine the text, or stop.

No two services agree on statuses and bodies. The shapes and messages here are those of OpenAI, Azure, LM
Studio, Ollama, llama.cpp, vLLM, TEI and infinity, and of the gateways in front of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

from toolbox_cli.domain.errors import EmbeddingServiceError, InputRefusedError, RateLimitedError
from toolbox_cli.embedding.retry_after import retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

MESSAGE_LIMIT = 300

URL_HINT = (
    "Set EMBEDDING_ENDPOINT_URL to the address that the service answers: http(s)://HOST[:PORT]/v1/embeddings;"
    " 'builtin' needs no service."
)


class UndecodableAnswerError(EmbeddingServiceError):
    """HTTP 200, but the embeddings are in no form that we know. Floats may still work where base64 did
    not.
    """


class EncodingRefusedError(InputRefusedError):
    """The service refuses ``encoding_format``; the same texts may well be accepted without it."""


class TooManyInputsError(InputRefusedError):
    """The number of texts in one request is over the service's limit; none of the texts is to blame."""


class ServiceFailedError(InputRefusedError):
    """HTTP 500 that names no reason, after two quick retries.

    It may be the service, and it may be one text on which the service breaks: halving the batch tells which.
    """

    most_attempts: ClassVar[int] = 3


class PassingFaultError(EmbeddingServiceError):
    """A fault that is expected to pass by itself. Raised to callers once the retries are used up.

    ``retry_after`` is what the service asked to wait, in seconds, or None; ``most_attempts`` caps the
    requests for one batch.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after: float | None = None,
        most_attempts: int = 8,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        self.most_attempts = most_attempts


class ThrottledError(PassingFaultError):
    """503 without more words, or 429: the service asks for less. Many attempts are allowed: time is the real cap."""


class BackOffError(ThrottledError, RateLimitedError):
    """A rate limit, or a 503 that says when to come back: the service lives, and waiting is all that is needed."""


class TimedOutError(PassingFaultError):
    """No complete answer within the time for one request; fewer texts a request may help."""


class UnreachableError(PassingFaultError):
    """No connection, or one that broke before the answer."""


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """An error as it came over the wire, with what is needed to explain it.

    ``headers`` has lower-case names; ``url`` is ``shown_url``'s; ``secret`` is scrubbed from every message.
    """

    status: int
    headers: Mapping[str, str]
    payload: Any
    body: bytes
    url: str
    secret: str | None = None
    asked_base64: bool = False
    asked_dimension: int | None = None


def shown_url(url: str) -> str:
    """The URL without user, query and fragment: those may hold secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def looks_like_html(body: bytes) -> bool:
    start = body[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<body")) or start[:1] == b"<"


def html_error(url: str) -> EmbeddingServiceError:
    return EmbeddingServiceError(
        f"{url} answered an HTML page, not JSON: is the URL right? expected …/v1/embeddings", hint=URL_HINT
    )


def clean(text: str, secret: str | None = None) -> str:
    """One printable line of at most 300 characters, without the secret.

    A service may echo a megabyte of input, terminal escapes, or the key itself.
    """
    if secret and len(secret) >= 4:
        text = text.replace(secret, "[key]")
    text = re.sub(r"(?i)\bbearer\s+\S+", "Bearer [key]", text[:4000])
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def _words(payload: Any) -> str | None:
    """The message in an error body: ``{"error": {"message"}}``, ``{"error": "text"}``, ``{"message"}``,
    ``{"detail": "text" | [{"loc", "msg", "input"}]}``, and those in a list.

    Items of a ``detail`` list echo the input: only where and what is read of them.
    """
    if isinstance(payload, str):
        return payload
    if isinstance(payload, list):
        found = [words for item in payload[:3] if (words := _words(item))]
        return "; ".join(found) or None
    if not isinstance(payload, dict):
        return None
    if isinstance(payload.get("msg"), str):
        loc = payload.get("loc")
        where = ".".join(str(part) for part in loc) if isinstance(loc, list) else ""
        return f"{where}: {payload['msg']}" if where else payload["msg"]
    for key in ("error", "message", "detail", "errors", "title", "error_description"):
        if words := _words(payload.get(key)):
            return words
    return None


def _codes(payload: Any) -> str:
    """The machine-readable part of an error body, in lower case."""
    if isinstance(payload, list):
        payload = payload[0] if payload else None
    if not isinstance(payload, dict):
        return ""
    inner = payload.get("error")
    both = (payload, inner) if isinstance(inner, dict) else (payload,)
    return " ".join(str(part.get(key, "")) for part in both for key in ("code", "type", "error_type", "param")).lower()


_QUOTA = re.compile(r"insufficient_quota|billing_(?:hard_limit|not_active)|exceeded your current quota|credit balance")
_BAD_KEY = re.compile(r"invalid_api_key|(?:invalid|incorrect) api key|api key not valid")
_NO_MODEL = re.compile(
    r"model_not_found|no models? (?:is |are )?loaded|unknown model|invalid model"
    r"|\bmodel\b.{0,80}\b(?:not found|does not exist|is not loaded|not available)"
)
_ENCODING = re.compile(r"encoding_format|encoding format|base64")
_DIMENSIONS = re.compile(r"\bdimensions?\b|matryoshka")
# llama.cpp's "physical batch size" is a limit of tokens for one text, not of texts for one request.
_TEXT_LIMIT = re.compile(r"physical batch")
_BATCH = re.compile(
    r"\bbatch[ _-]?(?:size|limit)|(?:size|limit).{0,20}\bbatch\b|too many (?:inputs|items|texts|documents)"
    r"|\barray too long|array with maximum length|at most \d+ (?:items|inputs|texts|requests)"
    r"|(?:number of|max(?:imum)?(?: of)?(?: \d+)?) (?:inputs|texts|items|documents)"
)
_INPUT = re.compile(r"\b(?:inputs?|tokens?|length|context|batch)\b|too (?:large|long|big)")


def classify(answer: ErrorAnswer) -> EmbeddingServiceError:
    """The exception that an error answer means; the caller raises it."""
    raw = _words(answer.payload)
    if raw is None:
        raw = "an HTML page" if looks_like_html(answer.body) else answer.body[:65536].decode("utf-8", "replace")
    said = clean(raw, answer.secret)
    signs = f"{_codes(answer.payload)} {said}".lower()
    status = answer.status
    told = f"HTTP {status}: {said}" if said else f"HTTP {status}"
    full = f"the embedding service at {answer.url} answered {told}"

    if answer.asked_base64 and status not in (401, 403, 429, 503) and _ENCODING.search(signs):
        return EncodingRefusedError(told)
    if fatal := _unusable(answer, signs, full):
        return fatal
    if status in (429, 503):
        wait = retry_after(answer.headers)
        kind = BackOffError if status == 429 or wait is not None else ThrottledError
        return kind(
            full,
            hint="The service asks for less: lower --concurrency or --max-rate, or give it more time"
            " (TOOLBOX_RETRY_TIMEOUT, in seconds).",
            retry_after=wait,
            most_attempts=20,
        )
    if status == 500:
        return _refused(told, signs, status) if _INPUT.search(signs) else ServiceFailedError(told)
    if status in (408, 425) or status > 501:
        return PassingFaultError(
            full,
            hint="Look at the service's own log, then run this again.",
            retry_after=retry_after(answer.headers),
        )
    return _refused(told, signs, status)


def _refused(told: str, signs: str, status: int) -> InputRefusedError:
    # TEI before 1.9 answers 413 to a text that is too long, with words of tokens: that is no batch limit.
    limited = _BATCH.search(signs) and not _TEXT_LIMIT.search(signs)
    if limited or (status == 413 and "token" not in signs):
        return TooManyInputsError(told)
    return InputRefusedError(told)


def _unusable(answer: ErrorAnswer, signs: str, full: str) -> EmbeddingServiceError | None:
    """The error where no text at all would be accepted, else None."""
    status = answer.status
    if status == 402 or (status == 429 and _QUOTA.search(signs)):
        return EmbeddingServiceError(
            full, hint="The account's quota is used up: waiting does not help. Raise it with the provider."
        )
    if status in (401, 403) or (status == 400 and _BAD_KEY.search(signs)):
        found = "The key that was sent is not accepted" if answer.secret else "No key was sent"
        return EmbeddingServiceError(full, hint=f"{found}: set EMBEDDING_API_KEY to one that the service accepts.")
    if status in (400, 404, 422) and _NO_MODEL.search(signs):
        return EmbeddingServiceError(
            full,
            hint="Load the model in the service, or set EMBEDDING_MODEL to the name it goes by there.",
        )
    if status in (400, 422) and answer.asked_dimension is not None and _DIMENSIONS.search(signs):
        return EmbeddingServiceError(
            full,
            hint=f"It does not cut this model to {answer.asked_dimension} dimensions: use the model's"
            " own dimension (`toolbox models`).",
        )
    if status == 200 and not _INPUT.search(signs):
        # LM Studio answers 200 {"error": "Unexpected endpoint or method."} to a wrong path.
        return EmbeddingServiceError(full, hint=URL_HINT)
    if 200 < status < 400:
        target = shown_url(answer.headers.get("location", ""))
        to = f", a redirect to {clean(target, answer.secret)}" if target else ""
        return EmbeddingServiceError(f"{answer.url} answered HTTP {status}{to}", hint=URL_HINT)
    if status == 404:
        return EmbeddingServiceError(
            full, hint=f"Either the URL or the model is not known there (EMBEDDING_MODEL). {URL_HINT}"
        )
    if status == 501 or (400 < status < 500 and status not in (408, 413, 422, 425, 429)):
        return EmbeddingServiceError(full, hint=URL_HINT)
    return None

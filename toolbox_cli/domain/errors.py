"""Every error that an operator may meet, with its exit code.

A message says what was found and what was expected; the hint says what to do now. No message may hold a secret.
The exit codes are part of the command line's contract (README, "Exit codes").
"""

from __future__ import annotations


class ToolboxError(Exception):
    """Base of all expected errors; ``exit_code`` is what the process ends with."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NegativeAnswerError(ToolboxError):
    """The command worked and its answer is no: a gate refused, or a confirmation was not given."""

    exit_code = 1


class InvalidUsageError(ToolboxError):
    """The command line itself cannot be carried out as typed."""

    exit_code = 2


class ConfigurationError(ToolboxError):
    """Settings that cannot be, alone or together."""

    exit_code = 3


class DatabaseError(ToolboxError):
    """The database is not reachable, or does not permit what is needed."""

    exit_code = 4


class StateError(ToolboxError):
    """The schema or the generations are not in the state that the command needs."""

    exit_code = 5


class LockBusyError(ToolboxError):
    """Another session holds a lock for longer than we are willing to wait."""

    exit_code = 5


class EmbeddingServiceError(ToolboxError):
    """The embedding service cannot be used at all: unreachable, unauthorised, or answering garbage."""

    exit_code = 6


class WrongDimensionError(EmbeddingServiceError):
    """The service makes vectors of another dimension than the generation's: nothing it answers can be stored."""

    def __init__(self, *, found: int, expected: int) -> None:
        super().__init__(
            f"the embedding service answered vectors of {found} dimensions, expected {expected}",
            hint=f"Is EMBEDDING_MODEL the model that the service runs? Migrate to {found} dimensions"
            f" (`toolbox migrate --dimension {found}`), or serve a model that makes {expected}.",
        )
        self.found = found
        self.expected = expected


class RateLimitedError(EmbeddingServiceError):
    """The service is there and asks us to come back later; ``retry_after`` is in seconds, None when it gave none."""

    retry_after: float | None = None


class InputRefusedError(EmbeddingServiceError):
    """The service refuses *these inputs* (too long, too many, unusable); others may well be accepted.

    The reindexer answers by halving the batch; a single input that is still refused is quarantined with
    ``message``, the service's own words, cut short.
    """


class InterruptedRunError(ToolboxError):
    """SIGINT or SIGTERM; what was done is kept."""

    exit_code = 130

"""What an embedding service turned out to do, probed by ``toolbox verify --profile``."""

from __future__ import annotations

from datetime import datetime

from toolbox_cli.domain.models import Frozen


class ServiceProfile(Frozen):
    """Of one model at one address. Fields are None where the probe could not tell.

    ``largest_batch`` is the largest number of texts that was accepted; ``batch_refused_at`` the smallest that was not.
    ``longest_input`` is the largest number of words that was read to its end, ``long_inputs`` what happens beyond:
    ``refused``, ``cut`` (the end makes no difference to the vector, nothing is said) or ``read`` (no limit was met).
    ``order`` is ``kept``, ``by index`` or ``lost``; ``agreement`` the least cosine between a text alone and in a batch.
    ``dimensions`` is ``honoured``, ``ignored`` or ``refused``; ``unknown_model`` ``refused`` or ``answered``. Times are
    in seconds, ``texts_per_second`` with four requests in flight.
    """

    model: str
    endpoint_url: str
    dimension: int
    normalised: bool
    largest_batch: int
    batch_refused_at: int | None
    longest_input: int
    long_inputs: str
    order: str
    agreement: float
    base64: bool | None
    dimensions: str | None
    unknown_model: str | None
    latency_seconds: float
    texts_per_second: float
    probed_at: datetime

"""One text through a service, to see what comes back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from toolbox_cli.domain.errors import InputRefusedError, InvalidUsageError
from toolbox_cli.domain.models import Frozen

if TYPE_CHECKING:
    from toolbox_cli.domain.ports import Embedder


class Trial(Frozen):
    """``norm`` is the Euclidean length of the vector, ``seconds`` the time of the whole request."""

    model: str
    endpoint_url: str
    dimension: int
    norm: float
    seconds: float
    first_components: list[float]


async def try_out(embedder: Embedder, endpoint_url: str, text: str) -> Trial:
    """Embed one text as a question; raises as the embedder, InvalidUsageError when the text itself is refused."""
    import numpy as np

    try:
        started = time.perf_counter()
        vector = await embedder.embed_query(text)
        seconds = time.perf_counter() - started
    except InputRefusedError as exc:
        raise InvalidUsageError(f"the text cannot be embedded: {exc.message}", hint=exc.hint) from exc
    finally:
        await embedder.aclose()
    return Trial(
        model=embedder.model,
        endpoint_url=endpoint_url,
        dimension=int(vector.shape[0]),
        norm=round(float(np.linalg.norm(vector)), 6),
        seconds=round(seconds, 4),
        first_components=[round(float(x), 6) for x in vector[:5]],
    )

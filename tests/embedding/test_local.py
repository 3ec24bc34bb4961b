"""The model in this process, against wordllama itself in a process of its own."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from toolbox_cli.domain.errors import ConfigurationError, InputRefusedError
from toolbox_cli.embedding.local import LocalEmbedder

TEXTS = [
    "get weather: Returns the weather of a city\nParameters: city, unit",
    "x",
    "Übergrößenträger 北京 😀 \u00a0 \t tabs",
    "send email: Sends an e-mail. " * 300,
    "<s> </s> <unk> special names as text",
    "   leading blanks",
]


def wordllama_itself(texts: list[str], dimension: int) -> np.ndarray:
    code = (
        "import json, sys, pathlib, wordllama\n"
        "here = pathlib.Path(wordllama.__file__).parent\n"
        f"model = wordllama.WordLlama.load(trunc_dim={dimension}, cache_dir=here, disable_download=True)\n"
        "print(json.dumps(model.embed(json.load(sys.stdin), norm=True).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    return np.array(json.loads(done.stdout))


@pytest.mark.parametrize("dimension", [256, 128, 64])
async def test_the_vectors_are_those_of_wordllama(dimension: int) -> None:
    vectors = await LocalEmbedder(dimension=dimension).embed_documents(TEXTS)
    assert vectors.shape == (len(TEXTS), dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    cosines = (vectors * wordllama_itself(TEXTS, dimension)).sum(axis=1)
    assert cosines.min() > 0.99999


async def test_a_smaller_dimension_is_a_cut_normalised_again() -> None:
    full = await LocalEmbedder(dimension=256).embed_documents(TEXTS)
    for dimension in (128, 64):
        cut = full[:, :dimension] / np.linalg.norm(full[:, :dimension], axis=1, keepdims=True)
        vectors = await LocalEmbedder(dimension=dimension).embed_documents(TEXTS)
        np.testing.assert_allclose(vectors, cut, atol=1e-5)


async def test_a_vector_does_not_depend_on_its_batch() -> None:
    embedder = LocalEmbedder()
    rng = random.Random(4)
    texts = [" ".join(rng.choices(["read", "file", "über", "mail", "42"], k=rng.randint(1, 400))) for _ in range(300)]
    together = await embedder.embed_documents(texts)
    alone = [await embedder.embed_query(text) for text in texts[::17]]
    np.testing.assert_allclose(together[::17], alone, atol=1e-5)


async def test_prefixes() -> None:
    plain, prefixed = LocalEmbedder(), LocalEmbedder(document_prefix="a: ", query_prefix="b: ")
    np.testing.assert_array_equal(await prefixed.embed_query("x"), await plain.embed_query("b: x"))
    np.testing.assert_array_equal(await prefixed.embed_documents(["x"]), await plain.embed_documents(["a: x"]))
    assert await prefixed.probe() == 256
    assert (await plain.embed_documents([])).shape == (0, 256)


async def test_only_the_first_tokens_count() -> None:
    embedder = LocalEmbedder()
    vectors = await embedder.embed_documents(["word " * 8300, "word " * 9000 + "other"])
    assert float(vectors[0] @ vectors[1]) > 0.99999


@pytest.mark.parametrize("text", ["", "  \n", "\x00"])
async def test_blank_texts_are_refused(text: str) -> None:
    with pytest.raises(InputRefusedError, match="blank"):
        await LocalEmbedder().embed_documents(["fine", text])


async def test_nul_and_surrogates_are_no_obstacle() -> None:
    embedder = LocalEmbedder()
    np.testing.assert_array_equal(await embedder.embed_query("a\x00b"), await embedder.embed_query("ab"))
    assert np.isfinite(await embedder.embed_query("a\ud800b")).all()


async def test_concurrent_use() -> None:
    embedder = LocalEmbedder()
    answers = await asyncio.gather(*[embedder.embed_documents(TEXTS) for _ in range(8)])
    for answer in answers:
        np.testing.assert_array_equal(answer, answers[0])


@pytest.mark.parametrize("dimension", [0, 32, 255, 768])
def test_other_dimensions_cannot_be(dimension: int) -> None:
    with pytest.raises(ConfigurationError, match=f"256, 128 or 64 dimensions, found {dimension}"):
        LocalEmbedder(dimension=dimension)


def test_the_name_of_another_model_cannot_be() -> None:
    assert LocalEmbedder(model="builtin").model == "builtin"
    with pytest.raises(ConfigurationError, match=r"the built-in model is 'wordllama', found .*nomic") as caught:
        LocalEmbedder(model="text-embedding-nomic-embed-text-v1.5")
    assert "EMBEDDING_MODEL=wordllama" in (caught.value.hint or "")


def run(code: str, *options: str) -> str:
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_missing_package_is_told_with_its_remedy() -> None:
    hide = (
        "import sys, importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'wordllama' else real(name, *a)\n"
        "from toolbox_cli.embedding.local import LocalEmbedder\n"
        "from toolbox_cli.domain.errors import ConfigurationError\n"
        "try:\n    LocalEmbedder()\nexcept ConfigurationError as exc:\n    print(exc.message, '|', exc.hint)"
    )
    assert run(hide) == "the built-in model is not installed | pip install 'toolbox-cli[embedded]'"


def test_the_wordllama_package_is_not_imported_and_logging_is_left_alone() -> None:
    code = (
        "import asyncio, logging, sys\n"
        "from toolbox_cli.embedding.local import LocalEmbedder\n"
        "asyncio.run(LocalEmbedder().embed_query('x'))\n"
        "loaded = [m for m in ('wordllama', 'requests', 'torch') if m in sys.modules]\n"
        "print(loaded, logging.getLogger().handlers)"
    )
    assert run(code) == "[] []"


async def test_long_texts_cost_no_memory_and_loading_is_quick() -> None:
    embedder = LocalEmbedder()
    await embedder.embed_query("numpy is imported")
    started = time.perf_counter()
    again = LocalEmbedder()
    await again.embed_query("x")
    assert time.perf_counter() - started < 3
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await again.embed_documents([*TEXTS * 20, "word " * 10_000, "x" * 2_000_000])
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 150

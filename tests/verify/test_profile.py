"""verify --profile against services with the habits of real ones, and what reindex makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from support.cli import Outcome, Service, Toolbox
from support.registries import execute, rows
from support.reindexing import add_tools


@pytest.fixture
def served(toolbox: Toolbox, registry: str, service: Service) -> Service:
    """The service of a registry with some tools, embedded."""
    add_tools(registry, 30)
    execute(registry, "UPDATE embedding_generations SET endpoint_url = %s", [service.url])
    toolbox("reindex").ok()
    return service


def profile(toolbox: Toolbox) -> dict[str, Any]:
    return profile_of(toolbox("verify", "--profile", "--json").ok())


def profile_of(outcome: Outcome) -> dict[str, Any]:
    found: dict[str, Any] = outcome.json["profile"]
    return found


def drift(outcome: Outcome) -> dict[str, Any]:
    return next(check for check in outcome.json["checks"] if check["name"] == "drift")


def test_a_service_that_does_everything(toolbox: Toolbox, served: Service) -> None:
    found = profile(toolbox)
    assert found["endpoint_url"] == served.url
    assert (found["model"], found["dimension"], found["normalised"]) == ("test-model", 8, True)
    assert (found["largest_batch"], found["batch_refused_at"]) == (2048, None)
    assert (found["order"], found["agreement"], found["base64"]) == ("kept", pytest.approx(1, abs=1e-5), True)
    assert (found["dimensions"], found["unknown_model"]) == ("honoured", "answered")
    assert found["long_inputs"] == "read"
    assert found["latency_seconds"] > 0
    assert found["texts_per_second"] > 0


def test_a_service_with_limits(toolbox: Toolbox, served: Service) -> None:
    do = served.behaviour
    do.batch_limit, do.max_chars, do.dimensions, do.base64 = 100, 6_000, "refuse", "ignored"
    do.model = "test-model"
    found = profile(toolbox)
    assert 90 <= found["largest_batch"] <= 100 < found["batch_refused_at"] <= 112
    # Words of the probe have about 6 letters and a space: 890 of them have 6,000 characters.
    assert found["long_inputs"] == "refused"
    assert 890 * 7 / 8 <= found["longest_input"] <= 890
    assert (found["dimensions"], found["base64"], found["unknown_model"]) == ("refused", False, "refused")


def test_a_service_that_cuts_and_says_nothing(toolbox: Toolbox, served: Service) -> None:
    served.behaviour.read_chars = 3_000
    found = profile(toolbox)
    # 445 words have 3,000 characters; it shows when the whole last tenth is beyond them.
    assert found["long_inputs"] == "cut"
    assert 445 * 7 / 8 <= found["longest_input"] <= 445 / 0.9


def test_a_service_that_reads_little(toolbox: Toolbox, registry: str, served: Service) -> None:
    """What it refuses is cut to what it reads, and verify compares what was made so."""
    execute(registry, "UPDATE tools SET description = repeat('long ', 200) WHERE name = 'tool_3'")
    served.behaviour.max_chars = 200
    found = profile_of(toolbox("verify", "--profile", "--json"))
    assert (found["long_inputs"], 0 < found["longest_input"] <= 30) == ("refused", True)
    toolbox("reindex").ok()
    assert rows(registry, "SELECT count(*) FROM tools WHERE embedding IS NULL") == [(0,)]
    toolbox("verify").ok()
    served.behaviour.max_chars = 45
    assert profile_of(toolbox("verify", "--profile", "--json"))["longest_input"] == 0
    served.behaviour.max_chars = None
    served.stats.texts.clear()
    toolbox("reindex", "--all").ok()
    assert max(map(len, served.stats.texts)) > 900, "nothing is cut to nothing"


def test_a_service_that_is_too_busy_to_be_probed(toolbox: Toolbox, registry: str, served: Service) -> None:
    """Answers of a busy service are no limits: nothing of them is kept."""
    served.on_texts = lambda texts: busy(served) if len(texts) > 100 else None
    outcome = toolbox("verify", "--profile", "--json").ok()
    assert "profile" not in outcome.json
    given_up = next(check for check in outcome.json["checks"] if check["name"] == "profile")
    assert (given_up["status"], given_up["remedy"]) == ("warn", "toolbox verify --profile")
    assert rows(registry, "SELECT 1 FROM embedding_services WHERE profile IS NOT NULL") == []


def busy(service: Service) -> None:
    service.behaviour.max_in_flight = 0


def test_answers_out_of_order(toolbox: Toolbox, served: Service) -> None:
    served.behaviour.shuffled = True
    assert profile(toolbox)["order"] == "by index"
    served.behaviour.without_index = True
    assert toolbox("verify", "--profile", "--json").json["profile"]["order"] == "lost"


def test_a_service_that_loses_the_order(toolbox: Toolbox, served: Service) -> None:
    """What is stored is right, and stays so only if texts are sent alone."""
    served.behaviour.shuffled = served.behaviour.without_index = True
    sound = drift(toolbox("verify", "--json").ok())
    assert sound["status"] == "warn"
    assert "mixes up the answers" in sound["detail"]
    toolbox("reindex", "--all").ok()
    wrong = drift(toolbox("verify", "--json"))
    assert (wrong["status"], wrong["remedy"]) == ("fail", "toolbox reindex --all --batch-size 1")
    toolbox(*wrong["remedy"].split()[1:]).ok()
    assert drift(toolbox("verify", "--json").ok())["status"] == "warn"


@pytest.mark.parametrize(("behaviour", "expected"), [("ignore", "ignored"), ("honour", "honoured")])
def test_the_parameter_dimensions(toolbox: Toolbox, served: Service, behaviour: Any, expected: str) -> None:
    served.behaviour.dimensions = behaviour
    assert profile(toolbox)["dimensions"] == expected


def test_speed_is_measured(toolbox: Toolbox, served: Service) -> None:
    served.behaviour.latency = 0.05
    found = profile(toolbox)
    assert 0.05 <= found["latency_seconds"] < 2
    # Four requests in flight, 64 texts in each, 0.05 s a request: 5,120 at most.
    assert 100 < found["texts_per_second"] <= 5_200


def test_what_was_found_is_kept_and_used(toolbox: Toolbox, registry: str, served: Service) -> None:
    served.behaviour.batch_limit = 20
    profile(toolbox)
    assert len(rows(registry, "SELECT 1 FROM embedding_services WHERE profile IS NOT NULL")) == 1
    served.stats.largest_batch = served.stats.refused = 0
    toolbox("reindex", "--all").ok()
    assert 0 < served.stats.largest_batch <= 20
    assert served.stats.refused == 0, "nothing had to be learned from a refusal"


def test_no_profile_where_the_service_is_down_or_left_out(toolbox: Toolbox, served: Service) -> None:
    served.stop()
    found = toolbox("verify", "--profile", "--json")
    assert found.code == 1
    assert "profile" not in found.json
    toolbox("verify", "--profile", "--offline").refused(2, "--profile")


def test_the_built_in_model(toolbox: Toolbox, catalogue: str) -> None:
    found = profile(toolbox)
    assert (found["endpoint_url"], found["model"], found["unknown_model"]) == ("builtin", "wordllama", "refused")
    assert (found["order"], found["agreement"]) == ("kept", pytest.approx(1, abs=1e-5))
    assert "texts/s in batches" in toolbox("verify", "--profile").ok().out

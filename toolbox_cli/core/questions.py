"""Questions from a file, plain lines or JSONL with the relevant tools; or made from the tools themselves."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from toolbox_cli.domain.errors import InvalidUsageError
from toolbox_cli.domain.questions import Question

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO

    from toolbox_cli.domain.verification import Sample

EXPECTED = 'Expected one question a line, or JSONL: {"query": "…", "relevant": ["tool_name", …]}, in UTF-8.'
#: More say nothing more, and each is sent to a service and searched for.
MOST_QUESTIONS = 10_000
_LONGEST_LINE = 1 << 16
_SENTENCE_END = re.compile(r"(?<=[.!?;:。])\s+")


def read_questions(stream: BinaryIO, name: str) -> list[Question]:
    """The questions of a file, in its order. Raises InvalidUsageError that names the line which is not right."""
    questions: list[Question] = []
    number = 0
    while line := stream.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise InvalidUsageError(f"{name}, line {number}: longer than {_LONGEST_LINE} bytes", hint=EXPECTED)
        question = _question(line, f"{name}, line {number}")
        if question is not None:
            questions.append(question)
        if len(questions) > MOST_QUESTIONS:
            raise InvalidUsageError(
                f"{name} has more than {MOST_QUESTIONS} questions", hint="A sample of them will do."
            )
    if not questions:
        raise InvalidUsageError(f"{name} has no question in it", hint=EXPECTED)
    return questions


def _question(line: bytes, where: str) -> Question | None:
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as exc:
        raise InvalidUsageError(f"{where}: is not UTF-8", hint=EXPECTED) from exc
    if "\x00" in text:
        raise InvalidUsageError(f"{where}: holds a NUL character: is this a text file?", hint=EXPECTED)
    if not text:
        return None
    if not text.startswith("{"):
        return Question(query=text)
    try:
        # Not strict, so that a list is taken for a tuple; what is no text is refused all the same.
        found = Question.model_validate(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as exc:
        raise InvalidUsageError(f"{where}: begins with {{ and is no JSON: {exc}", hint=EXPECTED) from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the object"
        raise InvalidUsageError(f"{where}: {field}: {first['msg'].lower()}", hint=EXPECTED) from exc
    if any("\x00" in word for word in (found.query, *found.relevant)):
        raise InvalidUsageError(f"{where}: holds a NUL character", hint=EXPECTED)
    return found if found.query.strip() else None


def made_from(samples: Iterable[Sample]) -> list[Question]:
    """A question from each tool's own text: the first sentence of its description, without the tool's name.

    The tool is what answers it. Such questions say how far two models agree; they are too easy to say which is better.
    """
    made = []
    for sample in samples:
        words, _, description = sample.text.partition("\n")[0].partition(": ")
        sentence = _SENTENCE_END.split(description.strip(), maxsplit=1)[0].strip() or words.strip()
        if sentence:
            made.append(Question(query=sentence, relevant=(sample.name,)))
    return made


def labelled(questions: Sequence[Question]) -> list[Question]:
    """Those of which somebody has said what answers them."""
    return [question for question in questions if question.relevant]

"""The memory of answers: a question finds its answer, a body too while the bundles are the same, and it is bounded."""

import pytest

from pnag.service.engine.answer_memory import MAX_LINKED_BODY, AnswerMemory, Key

KEY: Key = ("digest", 6.0)
BODY = b'{"budget_ms": 6}'


def filled(size: int = 2) -> AnswerMemory:
    memory = AnswerMemory(size)
    assert memory.of_body(BODY, "catalogue") is None
    memory.put(KEY, b"answer")
    memory.link_body(BODY, "catalogue", KEY)
    return memory


def test_a_question_and_the_body_that_asked_it_find_the_same_answer() -> None:
    memory = filled()
    reply = memory.get(KEY)
    assert reply is not None
    assert (reply.content, reply.cache) == (b"answer", "memory")
    assert memory.of_body(BODY, "catalogue") is reply


def test_a_body_leads_nowhere_once_the_bundles_have_changed_but_the_question_does() -> None:
    memory = filled()
    assert memory.of_body(BODY, "another") is None
    assert memory.get(KEY) is not None
    assert memory.of_body(BODY, "catalogue") is None, "it may mean another bundle by now"


def test_an_answer_that_comes_after_a_change_is_not_linked() -> None:
    memory = AnswerMemory(2)
    memory.of_body(BODY, "another")
    memory.put(KEY, b"answer")
    memory.link_body(BODY, "catalogue", KEY)
    assert memory.of_body(BODY, "another") is None


def test_a_long_body_is_not_linked() -> None:
    memory = filled()
    long = BODY + b" " * MAX_LINKED_BODY
    memory.link_body(long, "catalogue", KEY)
    assert memory.of_body(long, "catalogue") is None


@pytest.mark.parametrize("size", [0, 1, 3])
def test_neither_answers_nor_bodies_are_more_than_allowed(size: int) -> None:
    memory = AnswerMemory(size)
    bodies = [b"%d" % number for number in range(10)]
    for body in bodies:
        memory.of_body(body, "catalogue")
        memory.put(("digest", body.decode()), body)
        memory.link_body(body, "catalogue", ("digest", body.decode()))
    assert sum(memory.get(("digest", body.decode())) is not None for body in bodies) == size
    assert sum(memory.of_body(body, "catalogue") is not None for body in bodies) <= size

"""Messages between nodes, followed by hand."""

from dataclasses import replace

import numpy as np

from pnag.models.accuracy.message_passing import MessagePassing

# Features: link "chain" or "star", then options a, b, skip of three nodes.
CHAIN, STAR = [1, 0], [0, 1]
A, B, SKIP = [1, 0, 0], [0, 1, 0], [0, 0, 1]
ASLEEP = [0, 0, 0]
LOUD = 60.0


def _x(link: list[int], *nodes: list[int]) -> np.ndarray:
    return np.array([[*link, *(number for node in nodes for number in node)]], dtype=np.float64)


def _message_passing() -> MessagePassing:
    """A node reads the one before it in a chain, the raw input in a star."""
    nodes_FJC, gate_FJ = np.zeros((11, 3, 3)), np.zeros((11, 3))
    for j in range(3):
        nodes_FJC[2 + 3 * j, j, 0] = nodes_FJC[3 + 3 * j, j, 1] = 1
        gate_FJ[4 + 3 * j, j] = 1
    strength_FIJ = np.zeros((11, 4, 3))
    for j in range(3):
        strength_FIJ[0, j, j] = strength_FIJ[1, 0, j] = LOUD
    return MessagePassing(nodes_FJC, strength_FIJ, np.zeros((4, 3)), gate_FJ, scale=1.0)


def _pairs(x: np.ndarray) -> np.ndarray:
    """[what an option is, what it receives]: of a, b and the input."""
    return np.round(_message_passing()(x).reshape(3, 3), 9)


def test_an_option_meets_what_it_hears() -> None:
    a_then_b = _pairs(_x(CHAIN, A, B, A))
    assert a_then_b.tolist() == [
        [0, 1, 1],
        [1, 0, 0],
        [0, 0, 0],
    ]  # the first a receives the input, the last a receives b
    assert _pairs(_x(STAR, A, B, A)).tolist() == [[0, 0, 2], [0, 0, 1], [0, 0, 0]]


def test_a_skip_passes_on_what_it_hears() -> None:
    assert _pairs(_x(CHAIN, A, SKIP, B)).tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    half = replace(_message_passing(), gate_FJ=_message_passing().gate_FJ / 2, scale=4.0)
    np.testing.assert_allclose(half(_x(CHAIN, A, SKIP, B)).reshape(3, 3)[1], [2, 0, 0], atol=1e-9)


def test_a_decision_that_is_inactive_sends_to_nobody() -> None:
    assert _pairs(_x(CHAIN, A, ASLEEP, B)).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]

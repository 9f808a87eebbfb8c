"""Message passing between the operations of a network, as an accuracy model of few records learns it.

Decisions that choose from the same list, such as the operations of a graph network, are nodes in their order. Other
decisions, such as how they are connected, weigh the messages of the nodes before a node and of the raw input:

    s_j = softmax_i<=j(always + x strength)
    m_j = s_0j 1 + sum_{0 < i <= j} s_ij h_(i-1)     received by node j: a mixture, so that no chain of them grows
    h_j = (1 - g_j) o_j + g_j m_j                    sent by node j; a skip connection would send on all it receives

with o_j the coordinates of its option and g_j in [0, 1] how much that option lets through. So this is message passing
(Gilmer et al., 2017, arXiv:1704.01212) over soft edges that are learned; nobody states them. The features are
sum_j o_j m_j', products of an option and its message: an effect of a pair counts at every place and under every
connection where the two meet.

Axis letters: N = architectures, F = features, J = nodes, I = the input and the nodes, C = coordinates of an option and
one more, which is the input's: 1 in the raw input, 0 in every option.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pnag.models.onnx.scalar_graph import GraphBuilder

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MessagePassing:
    """Message passing over the one-hot features x of an architecture.

    Attributes:
        nodes_FJC: o = x nodes.
        strength_FIJ, always_IJ: row 0 is the input's, row j + 1 node j's; rows i > j are unused.
        gate_FJ: g = x gate.
        scale: of the features.
    """

    nodes_FJC: Floats
    strength_FIJ: Floats
    always_IJ: Floats
    gate_FJ: Floats
    scale: float

    def __call__(self, x_NF: Floats) -> Floats:
        """Features, shape [N, C * C]."""
        node_NJC = np.tensordot(x_NF, self.nodes_FJC, 1)
        weight_NIJ = np.exp(self.always_IJ + np.tensordot(x_NF, self.strength_FIJ, 1))
        return np.asarray(self.scale * pairs(node_NJC, receive(node_NJC, weight_NIJ, x_NF @ self.gate_FJ)))

    def to_onnx(self, graph: GraphBuilder, x: str, weights: Floats) -> str:
        """The features times `weights` [C * C], per architecture [N, 1]; x is the name of its features."""
        _, num_nodes, width = self.nodes_FJC.shape
        asked_FJC = self.nodes_FJC @ (self.scale * weights.reshape(width, width))
        edges = [(i, j) for j in range(num_nodes) for i in range(j + 1)]

        def columns(tables: Sequence[Floats]) -> list[str]:
            """x times each table [F, columns], in one product."""
            product = graph.node("MatMul", x, graph.constant(np.concatenate(tables, axis=1)))
            return _split(graph, product, [t.shape[1] for t in tables])

        node = columns([self.nodes_FJC[:, j] for j in range(num_nodes)])
        asked = columns([asked_FJC[:, j] for j in range(num_nodes)])
        gate = columns([self.gate_FJ[:, [j]] for j in range(num_nodes)])
        from_options = graph.node("MatMul", x, graph.constant(np.stack([self.strength_FIJ[:, *e] for e in edges], 1)))
        logits = graph.node("Add", from_options, graph.constant(np.array([self.always_IJ[e] for e in edges])))
        logits_of = _split(graph, logits, [j + 1 for j in range(num_nodes)])
        sent = [graph.constant(np.eye(width)[-1:])]
        answers = []
        for j in range(num_nodes):
            shares = _split(graph, graph.node("Softmax", logits_of[j], axis=1), [1] * (j + 1))
            received = graph.node("Sum", *[graph.node("Mul", shares[i], sent[i]) for i in range(j + 1)])
            beyond = graph.node("Mul", gate[j], graph.node("Sub", received, node[j]))
            sent.append(graph.node("Add", node[j], beyond))
            answers.append(graph.node("Mul", asked[j], received))
        return graph.node("ReduceSum", graph.node("Sum", *answers), graph.constant(np.array([1])), keepdims=1)


def receive(node_NJC: Any, weight_NIJ: Any, gate_NJ: Any) -> list[Any]:
    """Received message m_j of every node, each [N, C]; of numpy arrays or of torch tensors.

    Args:
        weight_NIJ: the exponentials that a softmax over the first j + 1 rows would divide by their sum.
    """
    raw_input_NC = node_NJC[:, 0] * 0
    raw_input_NC[:, -1] = 1
    sent, received = [raw_input_NC], []
    for j in range(node_NJC.shape[1]):
        share_NI = weight_NIJ[:, : j + 1, j] / weight_NIJ[:, : j + 1, j].sum(1)[:, None]
        received.append(sum(share_NI[:, i, None] * sent[i] for i in range(j + 1)))
        sent.append(node_NJC[:, j] + gate_NJ[:, j, None] * (received[j] - node_NJC[:, j]))
    return received


def pairs(node_NJC: Any, received: Sequence[Any]) -> Any:
    """Products sum_j o_j m_j' as rows, shape [N, C * C]; of numpy arrays or of torch tensors."""
    total_NCC = sum(node_NJC[:, j, :, None] * received[j][:, None, :] for j in range(len(received)))
    return total_NCC.reshape(len(total_NCC), -1)


def _split(graph: GraphBuilder, columns: str, widths: Sequence[int]) -> list[str]:
    if len(widths) == 1:
        return [columns]
    return graph.nodes("Split", columns, graph.constant(np.array(widths)), outputs=len(widths), axis=1)

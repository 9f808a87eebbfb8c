"""The generator as one small ONNX graph: a Scan over the decisions, written node by node.

Exporters unroll the decisions into thousands of nodes that load and run slower (docs/decisions/0006). What only meets
linearly is multiplied or added beforehand, and what follows from a token alone is looked up: most nodes of a step cost
more to start than to run. The graph's numbers differ from torch's by rounding alone; `verify_generator` holds the two
together, token by token.

Axis letters: B = budgets, S = candidates per budget, N = B S, D = decisions, C = options of the widest decision,
K = costs that are known, H = hidden units, I = H and the slack features, G = 4 H gate inputs; R = rows of the slack
table, one for each context of a decision; W = words: all tokens, an "inactive" for each decision, and the start.
"""

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pnag.models.answer.limits import NO_LIMIT
from pnag.models.answer.sessions import open_session
from pnag.models.errors import TrainingError
from pnag.models.onnx.scalar_graph import GraphBuilder, model_bytes
from pnag.models.policy.generator import RBF_CENTRES, RBF_WIDTH, Generator
from pnag.models.space.search_space import INACTIVE

Floats = NDArray[np.float32]

NEAR_TIE = 1e-4
"""Two options whose logits differ by less may swap between torch and ONNX Runtime: their sums round differently."""


class _Tables:
    """Tables of what follows from a word, or from an option in its row of the slack table, without the network.

    Attributes:
        start: the word before the first decision.
        marker_W, decision_W: a word's token + 1 (0 where there is none), and whose word it is.
        embedding_W, next_W: the word's row of token embeddings, and the decision that comes after it; one beyond the
            last where there is none.
        known_K: which costs are known; the others can limit nothing.
        steps_RCK: floor step of each option; inf where it does not exist.
        word_RC, token_RC: what choosing an option writes, and what that is in an architecture.
        first_D, stride_DD: first_D[t] + stride_DD[t] @ markers is the row of decision t.
    """

    def __init__(self, generator: Generator) -> None:
        space, slack = generator.space, generator.slack
        width_D, count, num_tokens = slack.width_D, len(slack.width_D), generator.inactive_row
        decisions_D = np.arange(count)
        self.start = num_tokens + count
        self.decision_W = np.concatenate([np.repeat(decisions_D, width_D), decisions_D, [0]])
        tokens_V = np.concatenate([np.arange(width) for width in width_D])
        self.marker_W = np.concatenate([tokens_V + 1, np.zeros(count + 1, dtype=np.int64)])
        self.embedding_W = np.minimum(np.arange(self.start + 1), num_tokens)
        self.embedding_W[self.start] += 1
        self.next_W = self.decision_W + 1
        self.next_W[self.start] = 0

        self.known_K = [k for k, steps_R in enumerate(slack.steps_RK.T) if k == 0 or steps_R.any()]
        # A token that is never inactive has no marker 0: the rows of its decision begin that much later.
        is_certain_D = np.array([not decision.active_if for decision in space.decisions])
        begin_D = slack.stride_DD @ is_certain_D
        entry_D = [*(slack.offset_D + begin_D), len(slack.steps_RK)]
        num_rows_D = np.diff(entry_D) // width_D
        decision_R = np.repeat(decisions_D, num_rows_D)
        self.steps_RCK = np.full((len(decision_R), generator.width, len(self.known_K)), np.inf, dtype=np.float32)
        is_inactive_R = np.zeros(len(decision_R), dtype=np.bool_)
        for t, width in enumerate(width_D):
            entries = slice(entry_D[t], entry_D[t + 1])
            steps_RK = slack.steps_RK[entries, self.known_K]
            self.steps_RCK[decision_R == t, :width] = steps_RK.reshape(-1, width, len(self.known_K))
            is_inactive_R[decision_R == t] = slack.inactive_R[entries][::width]
        self.first_D = np.cumsum(num_rows_D) - num_rows_D - begin_D // width_D
        self.stride_DD = slack.stride_DD // width_D[:, np.newaxis]
        options_C = np.minimum(np.arange(generator.width), width_D[decision_R][:, np.newaxis] - 1)
        is_inactive_R1 = is_inactive_R[:, np.newaxis]
        inactive_R1, first_R1 = (num_tokens + decision_R)[:, np.newaxis], generator.starts_D[decision_R][:, np.newaxis]
        self.word_RC = np.where(is_inactive_R1, inactive_R1, first_R1 + options_C)
        self.token_RC = np.where(is_inactive_R1, INACTIVE, options_C)


class _Weights:
    """The policy's parameters, multiplied out as far as they meet linearly.

    Attributes:
        budget_PG, budget_G: budget features to gate inputs, and what is added.
        word_WG: gate inputs of a word: its token, and the step of the decision that comes next.
        state_IG: gate inputs of the hidden units and of the slack features.
    """

    def __init__(self, generator: Generator, tables: _Tables) -> None:
        weights = {name: p.detach().numpy().astype(np.float64) for name, p in generator.named_parameters()}
        to_gates_EG = weights["lstm.weight_ih_l0"].T
        self.budget_PG, slack_PG = (weights[f"{name}_input.weight"].T @ to_gates_EG for name in ("budget", "slack"))
        for logarithm_G in (self.budget_PG[2], slack_PG[2]):
            logarithm_G /= 3.0  # here, and not of each candidate in each step
        self.budget_G = weights["budget_input.bias"] @ to_gates_EG
        zeros_1G = np.zeros((1, 4 * generator.hidden))
        token_gates = np.concatenate([weights["token_VE"] @ to_gates_EG, zeros_1G])
        step_gates = np.concatenate([weights["step_DE"] @ to_gates_EG, zeros_1G])
        self.word_WG = token_gates[tables.embedding_W] + step_gates[tables.next_W]
        self.state_IG = np.concatenate([weights["lstm.weight_hh_l0"].T, slack_PG])
        self.head_DHC, self.head_DC = weights["head_DHC"], weights["head_DC"]


def export_generator(generator: Generator) -> bytes:
    """`limits_BK (float), noise_BSDC (float) -> tokens_BSD (int64)`, as `Generator.sample` computes them."""
    graph = GraphBuilder()
    hidden, width, num_decisions = generator.hidden, generator.width, len(generator.space.decisions)
    tables = _Tables(generator)
    weights = _Weights(generator, tables)

    # Everything per budget becomes per candidate: [B, ...] -> [B, S, ...] -> [N, ...].
    num_candidates = _slice(graph, graph.node("Shape", "noise"), 1, 2, axis=0)
    limits_BK = graph.node("Gather", "limits", graph.constant(_ints(*tables.known_K)), axis=1)
    limits_NK = _per_candidate(graph, limits_BK, num_candidates, len(tables.known_K))
    features_BP = _budget_features(graph, _slice(graph, "limits", 0, 1, axis=1), generator.low, generator.high)
    product_BG = graph.node("MatMul", features_BP, _floats(graph, weights.budget_PG))
    budget_BG = graph.node("Add", product_BG, _floats(graph, weights.budget_G))
    noise_NDC = graph.node("Reshape", "noise", graph.constant(_ints(-1, num_decisions, width)))
    noise_DNC = graph.node("Transpose", noise_NDC, perm=[1, 0, 2])
    outer = _outer_values(graph, tables, weights, limits_NK, (budget_BG, num_candidates))
    num_rows = _slice(graph, graph.node("Shape", limits_NK), 0, 1, axis=0)
    zeros_NH = _repeated(graph, np.zeros(hidden), num_rows)
    states = [
        zeros_NH,
        zeros_NH,
        _repeated(graph, generator.slack.base_K[tables.known_K], num_rows),
        _repeated(graph, tables.first_D, num_rows),
        graph.node("Expand", graph.constant(_ints(tables.start)), num_rows),
    ]
    per_decision = [
        _floats(graph, weights.head_DHC),
        graph.constant(np.arange(num_decisions)),
        graph.node("Add", noise_DNC, _floats(graph, weights.head_DC[:, np.newaxis])),
    ]
    outputs = graph.nodes(
        "Scan",
        *states,
        *per_decision,
        outputs=[*(f"last_{i}" for i in range(len(states))), "options_DN"],
        body=_decision(generator, len(tables.known_K), outer),
        num_scan_inputs=len(per_decision),
    )
    options_ND = graph.node("Transpose", outputs[-1], perm=[1, 0])
    tokens_ND = graph.node("Gather", graph.constant(tables.token_RC.ravel()), options_ND)
    shape = graph.node(
        "Concat", graph.constant(_ints(-1)), num_candidates, graph.constant(_ints(num_decisions)), axis=0
    )
    graph.node("Reshape", tokens_ND, shape, output="tokens")
    inputs = [
        helper.make_tensor_value_info("limits", TensorProto.FLOAT, ["B", len(generator.slack.base_K)]),
        helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["B", "S", num_decisions, width]),
    ]
    result = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["B", "S", num_decisions])]
    return model_bytes(graph.graph("generator", inputs, result))


def _outer_values(
    graph: GraphBuilder, tables: _Tables, weights: _Weights, limits_NK: str, budget: tuple[str, str]
) -> dict[str, str]:
    """Values that every step of the Scan reads, by the names that `_decision` knows."""
    _, width, num_costs = tables.steps_RCK.shape
    steps_RX = graph.constant(tables.steps_RCK.reshape(-1, width * num_costs))
    strides_WD = graph.node("Gather", _floats(graph, tables.stride_DD.T), graph.constant(tables.decision_W))
    return {
        "budget_N1": _slice(graph, limits_NK, 0, 1, axis=1),
        "limits_NX": graph.node("Tile", limits_NK, graph.constant(_ints(1, width))),
        "budget_NG": _per_candidate(graph, *budget, weights.budget_G.size),
        "word_gates_WG": _floats(graph, weights.word_WG),
        "to_gates_IG": _floats(graph, weights.state_IG),
        "rows_WD": graph.node("Mul", _floats(graph, tables.marker_W[:, np.newaxis]), strides_WD),
        "steps_RX": steps_RX,
        "step_of_option": graph.node("Reshape", steps_RX, graph.constant(_ints(-1, num_costs))),
        "word_of_option": graph.constant(tables.word_RC.ravel()),
    }


def _decision(generator: Generator, num_costs: int, outer: dict[str, str]) -> onnx.GraphProto:
    """One step of the Scan: state and this decision's slices in, next state and chosen option out."""
    b = GraphBuilder("body_")
    hidden, width, num_decisions = generator.hidden, generator.width, len(generator.space.decisions)

    floor_N1 = _slice(b, "floor_NK", 0, 1, axis=1)
    slack_NP = _shares(b, b.node("Sub", outer["budget_N1"], floor_N1), generator.high - generator.low)
    state_NI = b.node("Concat", "hidden_NH", *slack_NP, axis=1)
    gates_NG = b.node("MatMul", state_NI, outer["to_gates_IG"])
    gates_NG = b.node("Add", gates_NG, b.node("Gather", outer["word_gates_WG"], "word_N"))
    gates_NG = b.node("Add", gates_NG, outer["budget_NG"])
    i, f, g, o = b.nodes("Split", gates_NG, b.constant(_ints(*[hidden] * 4)), outputs=4, axis=1)
    kept = b.node("Mul", b.node("Sigmoid", f), "cell_NH")
    b.node("Add", kept, b.node("Mul", b.node("Sigmoid", i), b.node("Tanh", g)), output="next_cell_NH")
    b.node("Mul", b.node("Sigmoid", o), b.node("Tanh", "next_cell_NH"), output="next_hidden_NH")
    logits_NC = b.node("Add", b.node("MatMul", "next_hidden_NH", "head_HC"), "noise_NC")

    # Row numbers stay below 2^24, so float32 holds them exactly.
    row_N = b.node("Cast", b.node("Gather", "rows_ND", "decision", axis=1), to=TensorProto.INT64)
    floor_NX = b.node("Tile", "floor_NK", b.constant(_ints(1, width)))
    reached_NX = b.node("Add", floor_NX, b.node("Gather", outer["steps_RX"], row_N))
    within_NX = b.node("LessOrEqual", reached_NX, outer["limits_NX"])
    # An option that breaks a limit is pushed below all others; which one is taken where all do is of no interest.
    burden_NX = b.node("Where", within_NX, _floats(b, np.array(0.0)), _floats(b, np.array(-1e30)))
    of_option_XC = np.repeat(np.eye(width), num_costs, axis=0)
    masked_NC = b.node("Gemm", burden_NX, _floats(b, of_option_XC), logits_NC)
    first_N = b.node("Mul", row_N, b.constant(np.array(width)))
    option_N = b.node("Add", first_N, b.node("ArgMax", masked_NC, axis=1, keepdims=0), output="option_N")
    b.node("Gather", outer["word_of_option"], option_N, output="next_word_N")
    b.node("Add", "floor_NK", b.node("Gather", outer["step_of_option"], option_N), output="next_floor_NK")
    b.node("Add", "rows_ND", b.node("Gather", outer["rows_WD"], "next_word_N"), output="next_rows_ND")

    float_, int_ = TensorProto.FLOAT, TensorProto.INT64
    states: list[tuple[str, int, list[int | str]]] = [
        ("hidden_NH", float_, ["N", hidden]),
        ("cell_NH", float_, ["N", hidden]),
        ("floor_NK", float_, ["N", num_costs]),
        ("rows_ND", float_, ["N", num_decisions]),
        ("word_N", int_, ["N"]),
    ]
    slices: list[tuple[str, int, list[int | str]]] = [
        ("head_HC", float_, [hidden, width]),
        ("decision", int_, []),
        ("noise_NC", float_, ["N", width]),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in [*states, *slices]]
    outputs = [helper.make_tensor_value_info(f"next_{name}", kind, shape) for name, kind, shape in states]
    outputs.append(helper.make_tensor_value_info("option_N", int_, ["N"]))
    return b.graph("decision", inputs, outputs)


def verify_generator(generator: Generator, model: bytes, seed: int, num_budgets: int = 16, candidates: int = 32) -> int:
    """Compare torch and ONNX Runtime token by token over the budget range; returns the number of tokens compared.

    Raises:
        TrainingError: if they differ anywhere that is not a near tie of two options.
    """
    rng = np.random.default_rng([seed, 2])
    num_decisions, num_costs = len(generator.space.decisions), len(generator.slack.base_K)
    limits_BK = np.full((num_budgets, num_costs), NO_LIMIT, dtype=np.float32)
    limits_BK[:, 0] = np.linspace(generator.low * 1.0001, generator.high, num_budgets)
    noise = rng.gumbel(size=(num_budgets, candidates, num_decisions, generator.width)).astype(np.float32)
    noise[:, 0] = 0.0
    (tokens_BSD,) = open_session(model).run(None, {"limits": limits_BK, "noise": noise})
    exported_ND = tokens_BSD.reshape(-1, num_decisions)
    limits_NK, noise_NDC = np.repeat(limits_BK, candidates, axis=0), noise.reshape(-1, num_decisions, generator.width)
    torch_ND = generator.sample(limits_NK, noise_NDC)
    rows = np.flatnonzero((exported_ND != torch_ND).any(axis=1))
    if len(rows):
        _refuse_unless_near_ties(generator, torch_ND[rows], exported_ND[rows], limits_NK[rows], noise_NDC[rows])
    return int(exported_ND.size)


def _refuse_unless_near_ties(
    generator: Generator, torch_ND: NDArray[np.int64], exported_ND: NDArray[np.int64], limits_NK: Floats, noise: Floats
) -> None:
    with torch.no_grad():
        logits_NDC = generator.masked_logits(torch_ND, limits_NK).numpy() + noise
    for row, (ours, theirs) in enumerate(zip(torch_ND, exported_ND, strict=True)):
        t = int(np.argmax(ours != theirs))
        margin = abs(logits_NDC[row, t, ours[t]] - logits_NDC[row, t, theirs[t]])
        if not margin < NEAR_TIE:
            raise TrainingError(
                f"the exported generator differs from torch at budget {limits_NK[row, 0]:g}, decision "
                f"{generator.space.decisions[t].name}: {theirs[t]} instead of {ours[t]} (logit margin {margin:.3g}). "
                "The export is not trusted and no bundle was written; report this with your onnxruntime version"
            )


def _per_candidate(graph: GraphBuilder, rows: str, num_candidates: str, width: int) -> str:
    """[B, width] -> [N, width], each row repeated for its candidates."""
    rows_B1W = graph.node("Unsqueeze", rows, graph.constant(_ints(1)))
    shape = graph.node("Concat", graph.constant(_ints(1)), num_candidates, graph.constant(_ints(1)), axis=0)
    return graph.node("Reshape", graph.node("Expand", rows_B1W, shape), graph.constant(_ints(-1, width)))


def _budget_features(graph: GraphBuilder, budget_B1: str, low: float, high: float) -> str:
    """`pnag.models.policy.generator.budget_features` as nodes."""
    above = graph.node("Sub", budget_B1, _floats(graph, np.array(low)))
    shares = _shares(graph, above, high - low)
    away = graph.node(
        "Div", graph.node("Sub", shares[0], _floats(graph, RBF_CENTRES)), _floats(graph, np.array(RBF_WIDTH))
    )
    bumps = graph.node("Exp", graph.node("Mul", graph.node("Mul", away, away), _floats(graph, np.array(-0.5))))
    return graph.node("Concat", *shares, bumps, axis=1)


def _shares(graph: GraphBuilder, amount_N1: str, span: float) -> tuple[str, str, str]:
    """s = clip(amount / span, 0, 1), sqrt s, and log(s + .02), of which the policy sees a third."""
    share = graph.node("Div", amount_N1, _floats(graph, np.array(span)))
    share = graph.node("Clip", share, _floats(graph, np.array(0.0)), _floats(graph, np.array(1.0)))
    shifted = graph.node("Log", graph.node("Add", share, _floats(graph, np.array(0.02))))
    return share, graph.node("Sqrt", share), shifted


def _repeated(graph: GraphBuilder, values: NDArray[np.generic], num_rows: str) -> str:
    """[X] -> [N, X]."""
    shape = graph.node("Concat", num_rows, graph.constant(_ints(len(values))), axis=0)
    return graph.node("Expand", _floats(graph, values[np.newaxis]), shape)


def _slice(graph: GraphBuilder, value: str, start: int, end: int, axis: int) -> str:
    return graph.node("Slice", value, *map(graph.constant, (_ints(start), _ints(end), _ints(axis))))


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _floats(graph: GraphBuilder, values: NDArray[np.generic] | NDArray[np.float64] | Sequence[float]) -> str:
    return graph.constant(np.asarray(values, dtype=np.float32))

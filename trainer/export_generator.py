"""The generator as one small ONNX graph: a Scan over the decisions, written node by node.

Exporters unroll the decisions into thousands of nodes that load and run slower (docs/decisions.md). Matrices that only
meet linearly are multiplied beforehand, so the graph's numbers differ from torch's by rounding alone;
`verify_generator` holds the two together, token by token.

Axis letters: B = budgets, S = candidates per budget, N = B S, D = decisions, C = options of the widest decision,
K = costs, H = hidden units, G = 4 H gate inputs, R = entries of the slack table.
"""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.errors import TrainingError
from models.generator import BUMP_CENTRES, BUMP_WIDTH, Generator
from models.onnx_graph import GraphBuilder, model_bytes
from models.runtime import NO_LIMIT

Floats = NDArray[np.float32]

NEAR_TIE = 1e-4
"""Two options whose logits differ by less may swap between torch and ONNX Runtime: their sums round differently."""


def export_generator(generator: Generator) -> bytes:
    """`limits_BK (float), noise_BSDC (float) -> tokens_BSD (int64)`, as `Generator.sample` computes them."""
    graph = GraphBuilder()
    space, slack, hidden = generator.space, generator.slack, generator.hidden
    num_decisions, width, num_costs = len(space.decisions), generator.width, len(slack.base_K)
    weights = {name: p.detach().numpy().astype(np.float64) for name, p in generator.named_parameters()}
    to_gates_EG = weights["lstm.weight_ih_l0"].T

    # Everything per budget becomes per candidate: [B, ...] -> [B, S, ...] -> [N, ...].
    num_candidates = graph.node(
        "Slice", graph.node("Shape", "noise"), *map(graph.constant, (_ints(1), _ints(2), _ints(0)))
    )
    limits_NK = _per_candidate(graph, "limits", num_candidates, num_costs)
    budget_B1 = graph.node("Slice", "limits", *map(graph.constant, (_ints(0), _ints(1), _ints(1))))
    features_BP = _budget_features(graph, budget_B1, generator.low, generator.high)
    budget_BG = graph.node(
        "Add",
        graph.node("MatMul", features_BP, _floats(graph, weights["budget_input.weight"].T @ to_gates_EG)),
        _floats(graph, weights["budget_input.bias"] @ to_gates_EG),
    )
    budget_NG = _per_candidate(graph, budget_BG, num_candidates, 4 * hidden)
    noise_NDC = graph.node("Reshape", "noise", graph.constant(_ints(-1, num_decisions, width)))
    noise_DNC = graph.node("Transpose", noise_NDC, perm=[1, 0, 2])

    # Rows of the gate table: every token, then "inactive", then the zero start before the first decision.
    token_gates = weights["token_VE"] @ to_gates_EG
    token_gates = np.concatenate([token_gates, np.zeros((1, 4 * hidden))])
    outer = {
        "limits_NK": limits_NK,
        "budget_NG": budget_NG,
        "token_gates_VG": _floats(graph, token_gates),
        "slack_gates_PG": _floats(graph, weights["slack_input.weight"].T @ to_gates_EG),
        "recurrent_HG": _floats(graph, weights["lstm.weight_hh_l0"].T),
        "steps_RK": _steps(graph, slack.steps_RK),
        "inactive_R": graph.constant(slack.inactive_R),
    }
    num_rows = graph.node("Slice", graph.node("Shape", limits_NK), *map(graph.constant, (_ints(0), _ints(1), _ints(0))))
    zeros_NH = _filled(graph, num_rows, hidden)
    states = [
        zeros_NH,
        zeros_NH,
        graph.node("Add", _filled(graph, num_rows, num_costs), graph.constant(slack.base_K)),
        _filled(graph, num_rows, num_decisions),
        graph.node("Expand", graph.constant(_ints(generator.inactive_row + 1)), num_rows),
    ]
    per_decision = [
        _floats(graph, weights["step_DE"] @ to_gates_EG),
        _floats(graph, weights["head_DHC"]),
        _floats(graph, weights["head_DC"]),
        _floats(graph, slack.stride_DD),
        graph.constant(slack.offset_D),
        graph.constant(slack.width_D),
        graph.constant(generator.starts_D),
        _floats(graph, np.eye(num_decisions)),
        noise_DNC,
    ]
    outputs = graph.nodes(
        "Scan",
        *states,
        *per_decision,
        outputs=[*(f"last_{i}" for i in range(len(states))), "tokens_DN"],
        body=_decision(generator, outer),
        num_scan_inputs=len(per_decision),
    )
    tokens_ND = graph.node("Transpose", outputs[-1], perm=[1, 0])
    shape = graph.node(
        "Concat", graph.constant(_ints(-1)), num_candidates, graph.constant(_ints(num_decisions)), axis=0
    )
    graph.node("Reshape", tokens_ND, shape, output="tokens")
    inputs = [
        helper.make_tensor_value_info("limits", TensorProto.FLOAT, ["B", num_costs]),
        helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["B", "S", num_decisions, width]),
    ]
    result = [helper.make_tensor_value_info("tokens", TensorProto.INT64, ["B", "S", num_decisions])]
    return model_bytes(graph.graph("generator", inputs, result))


def _decision(generator: Generator, outer: dict[str, str]) -> onnx.GraphProto:
    """One step of the Scan: state and this decision's slices in, next state and token out."""
    b = GraphBuilder("body_")
    hidden, width = generator.hidden, generator.width
    num_entries, num_costs = generator.slack.steps_RK.shape
    options_C = b.constant(np.arange(width, dtype=np.int64))
    axis_1 = b.constant(_ints(1))

    floor_N1 = b.node("Slice", "floor_NK", *map(b.constant, (_ints(0), _ints(1), _ints(1))))
    limit_N1 = b.node("Slice", outer["limits_NK"], *map(b.constant, (_ints(0), _ints(1), _ints(1))))
    left_N1 = b.node("Sub", limit_N1, floor_N1)
    slack_NP = _shares(b, left_N1, generator.high - generator.low)
    gates_NG = b.node("Add", b.node("Gather", outer["token_gates_VG"], "previous_N"), "step_G")
    gates_NG = b.node("Add", gates_NG, outer["budget_NG"])
    gates_NG = b.node("Add", gates_NG, b.node("MatMul", slack_NP, outer["slack_gates_PG"]))
    gates_NG = b.node("Add", gates_NG, b.node("MatMul", "hidden_NH", outer["recurrent_HG"]))
    i, f, g, o = b.nodes("Split", gates_NG, b.constant(_ints(*[hidden] * 4)), outputs=4, axis=1)
    kept = b.node("Mul", b.node("Sigmoid", f), "cell_NH")
    b.node("Add", kept, b.node("Mul", b.node("Sigmoid", i), b.node("Tanh", g)), output="next_cell_NH")
    b.node("Mul", b.node("Sigmoid", o), b.node("Tanh", "next_cell_NH"), output="next_hidden_NH")
    logits_NC = b.node("Add", b.node("MatMul", "next_hidden_NH", "head_HC"), "head_C")
    logits_NC = b.node("Add", logits_NC, "noise_NC")

    # Entry numbers stay below 2^24, so float32 sums of strides are exact.
    distance_N = b.node("ReduceSum", b.node("Mul", "chosen_ND", "stride_D"), axis_1, keepdims=0)
    entry_N = b.node("Add", b.node("Cast", distance_N, to=TensorProto.INT64), "offset")
    entry_NC = b.node("Add", b.node("Unsqueeze", entry_N, axis_1), options_C)
    entry_NC = b.node("Min", entry_NC, b.constant(np.array(num_entries - 1, dtype=np.int64)))
    reached_NCK = b.node("Add", b.node("Unsqueeze", "floor_NK", axis_1), b.node("Gather", outer["steps_RK"], entry_NC))
    within_NCK = b.node("LessOrEqual", reached_NCK, b.node("Unsqueeze", outer["limits_NK"], axis_1))
    within_NCK = b.node("Cast", within_NCK, to=TensorProto.FLOAT)
    within_NC = b.node("Cast", b.node("ReduceMin", within_NCK, axes=[2], keepdims=0), to=TensorProto.BOOL)
    fits_NC = b.node("And", within_NC, b.node("Less", options_C, "width"))
    masked_NC = b.node("Where", fits_NC, logits_NC, b.constant(np.array(-np.inf, dtype=np.float32)))
    token_N1 = b.node("ArgMax", masked_NC, axis=1, keepdims=1)
    place_N1K = b.node(
        "Expand", b.node("Unsqueeze", token_N1, b.constant(_ints(2))), b.constant(_ints(1, 1, num_costs))
    )
    b.node("Squeeze", b.node("GatherElements", reached_NCK, place_N1K, axis=1), axis_1, output="next_floor_NK")

    token_N = b.node("Squeeze", token_N1, axis_1)
    inactive_N = b.node("Gather", outer["inactive_R"], entry_N)
    b.node("Where", inactive_N, b.constant(np.array(-1, dtype=np.int64)), token_N, output="token_N")
    marker_N1 = b.node("Cast", b.node("Unsqueeze", "token_N", axis_1), to=TensorProto.FLOAT)
    marker_N1 = b.node("Add", marker_N1, b.constant(np.array(1.0, dtype=np.float32)))
    b.node("Add", "chosen_ND", b.node("Mul", marker_N1, "here_D"), output="next_chosen_ND")
    inactive_row = b.constant(np.array(generator.inactive_row, dtype=np.int64))
    b.node("Where", inactive_N, inactive_row, b.node("Add", token_N, "start"), output="next_previous_N")

    num_decisions = len(generator.space.decisions)
    float_, int_ = TensorProto.FLOAT, TensorProto.INT64
    states = [
        ("hidden_NH", float_, ["N", hidden]),
        ("cell_NH", float_, ["N", hidden]),
        ("floor_NK", float_, ["N", num_costs]),
        ("chosen_ND", float_, ["N", num_decisions]),
        ("previous_N", int_, ["N"]),
    ]
    slices: list[tuple[str, int, list[int | str]]] = [
        ("step_G", float_, [4 * hidden]),
        ("head_HC", float_, [hidden, width]),
        ("head_C", float_, [width]),
        ("stride_D", float_, [num_decisions]),
        ("offset", int_, []),
        ("width", int_, []),
        ("start", int_, []),
        ("here_D", float_, [num_decisions]),
        ("noise_NC", float_, ["N", width]),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in [*states, *slices]]
    outputs = [helper.make_tensor_value_info(f"next_{name}", kind, shape) for name, kind, shape in states]
    outputs.append(helper.make_tensor_value_info("token_N", int_, ["N"]))
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    (tokens_BSD,) = session.run(None, {"limits": limits_BK, "noise": noise})
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


def _steps(graph: GraphBuilder, steps_RK: Floats) -> str:
    """The slack table, column by column: that of an unknown cost is zeros, which ONNX Runtime makes at load."""
    zeros_R1 = _filled(graph, graph.constant(_ints(len(steps_RK))), 1)
    columns = [graph.constant(column[:, np.newaxis]) if column.any() else zeros_R1 for column in steps_RK.T]
    return graph.node("Concat", *columns, axis=1)


def _per_candidate(graph: GraphBuilder, rows: str, num_candidates: str, width: int) -> str:
    """[B, width] -> [N, width], each row repeated for its candidates."""
    rows_B1W = graph.node("Unsqueeze", rows, graph.constant(_ints(1)))
    shape = graph.node("Concat", graph.constant(_ints(1)), num_candidates, graph.constant(_ints(1)), axis=0)
    return graph.node("Reshape", graph.node("Expand", rows_B1W, shape), graph.constant(_ints(-1, width)))


def _budget_features(graph: GraphBuilder, budget_B1: str, low: float, high: float) -> str:
    """`models.generator.budget_features` as nodes."""
    above = graph.node("Sub", budget_B1, _floats(graph, np.array(low)))
    shares_B3 = _shares(graph, above, high - low)
    u_B1 = graph.node("Slice", shares_B3, *map(graph.constant, (_ints(0), _ints(1), _ints(1))))
    away = graph.node(
        "Div", graph.node("Sub", u_B1, _floats(graph, BUMP_CENTRES)), _floats(graph, np.array(BUMP_WIDTH))
    )
    bumps = graph.node("Exp", graph.node("Mul", graph.node("Mul", away, away), _floats(graph, np.array(-0.5))))
    return graph.node("Concat", shares_B3, bumps, axis=1)


def _shares(graph: GraphBuilder, amount_N1: str, span: float) -> str:
    """s = clip(amount / span, 0, 1) as (s, sqrt s, log(s + .02) / 3)."""
    share = graph.node("Div", amount_N1, _floats(graph, np.array(span)))
    share = graph.node("Clip", share, _floats(graph, np.array(0.0)), _floats(graph, np.array(1.0)))
    shifted = graph.node("Log", graph.node("Add", share, _floats(graph, np.array(0.02))))
    logarithm = graph.node("Div", shifted, _floats(graph, np.array(3.0)))
    return graph.node("Concat", share, graph.node("Sqrt", share), logarithm, axis=1)


def _filled(graph: GraphBuilder, num_rows: str, width: int) -> str:
    """Zeros of shape [N, width]."""
    shape = graph.node("Concat", num_rows, graph.constant(_ints(width)), axis=0)
    return graph.node("Expand", _floats(graph, np.zeros((1, 1))), shape)


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _floats(graph: GraphBuilder, values: NDArray[np.generic] | NDArray[np.float64] | Sequence[float]) -> str:
    return graph.constant(np.asarray(values, dtype=np.float32))

"""The budget-conditioned generator: an LSTM policy that writes an architecture decision by decision.

    p(architecture | B) = prod over t of p(token_t | token_<t, B)                              (PNAG, section 3.1)

At each step the policy sees the previous token, the budget's features (u = (B - min) / (max - min): u, sqrt u,
log(u + 0.02) / 3 and nine radial basis functions), and the slack: what the budget leaves above the cheapest
completion. Options that no longer fit any limit are masked (models/cost/slack.py), so raw samples keep the budget.

Axis letters: N = architectures, D = decisions, C = options of the widest decision, K = costs, H = hidden units,
E = width of the LSTM's input, V = tokens over all decisions and one for "inactive", P = budget features.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pnag.models.cost.slack import SlackTable
from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens

RBF_CENTRES = np.linspace(0.0, 1.0, 9)
RBF_WIDTH = 0.12
NUM_BUDGET_FEATURES = 3 + len(RBF_CENTRES)
NUM_SLACK_FEATURES = 3


def budget_features(budget_N: Tensor, low: float, high: float) -> Tensor:
    """Features of any real budget, shape [N, P]; budgets outside the range look like its ends."""
    u_N1 = ((budget_N - low) / (high - low)).clamp(0, 1).unsqueeze(1)
    basis_NP = torch.exp(-0.5 * ((u_N1 - torch.tensor(RBF_CENTRES, dtype=u_N1.dtype)) / RBF_WIDTH) ** 2)
    return torch.cat([u_N1, u_N1.sqrt(), torch.log(u_N1 + 0.02) / 3, basis_NP], dim=1)


def slack_features(limit_N: Tensor, bound_N: Tensor, low: float, high: float) -> Tensor:
    """Budget left above the cheapest completion, as a share of the range; shape [..., 3]."""
    s = ((limit_N - bound_N) / (high - low)).clamp(0, 1).unsqueeze(-1)
    return torch.cat([s, s.sqrt(), torch.log(s + 0.02) / 3], dim=-1)


class Generator(nn.Module):
    """The policy over one space and its slack table.

    Args:
        low, high: the range of the primary cost that budgets are normalised by.
    """

    def __init__(
        self, space: SearchSpace, slack: SlackTable, low: float, high: float, embedding: int, hidden: int
    ) -> None:
        super().__init__()
        self.space, self.slack = space, slack
        self.low, self.high = low, high
        self.embedding, self.hidden = embedding, hidden
        self.width = int(space.num_options_D.max())
        num_decisions = len(space.decisions)
        self.starts_D = np.concatenate([[0], np.cumsum(space.num_options_D)[:-1]]).astype(np.int64)
        self.inactive_row = int(space.num_options_D.sum())
        self.token_VE = nn.Parameter(torch.randn(self.inactive_row + 1, embedding) / math.sqrt(embedding))
        self.step_DE = nn.Parameter(torch.randn(num_decisions, embedding) / math.sqrt(embedding))
        self.budget_input = nn.Linear(NUM_BUDGET_FEATURES, embedding)
        self.slack_input = nn.Linear(NUM_SLACK_FEATURES, embedding, bias=False)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True, bias=False)
        self.head_DHC = nn.Parameter(torch.randn(num_decisions, hidden, self.width) / math.sqrt(hidden))
        self.head_DC = nn.Parameter(torch.zeros(num_decisions, self.width))

    def token_rows(self, tokens_ND: Tokens) -> NDArray[np.int64]:
        """Row of `token_VE` for each token, shape [N, D]."""
        return np.where(tokens_ND == INACTIVE, self.inactive_row, self.starts_D + tokens_ND)

    def log_prob(self, tokens_ND: Tokens, limits_NK: NDArray[np.float32]) -> Tensor:
        """Log-probability of whole architectures under their limits, shape [N]; -inf if an architecture breaks one.

        Inactive decisions have one way to go and add nothing.
        """
        logits_NDC = self.masked_logits(tokens_ND, limits_NK)
        chosen = torch.from_numpy(np.maximum(tokens_ND, 0)).unsqueeze(2)
        # Where an architecture has already broken a limit no option is left, and softmax would give NaN.
        lost_ND1 = torch.isneginf(logits_NDC).all(dim=2, keepdim=True)
        log_prob_NDC = torch.log_softmax(logits_NDC.masked_fill(lost_ND1, 0.0), dim=2).masked_fill(lost_ND1, -math.inf)
        log_prob_ND = log_prob_NDC.gather(2, chosen).squeeze(2)
        return torch.where(torch.from_numpy(tokens_ND == INACTIVE), 0.0, log_prob_ND).sum(dim=1)

    def masked_logits(self, tokens_ND: Tokens, limits_NK: NDArray[np.float32]) -> Tensor:
        """Logits at every decision given the tokens before it, shape [N, D, C]; -inf where an option does not fit."""
        bounds_NDK = self.slack.lower_bounds(tokens_ND)
        reached_NDCK = bounds_NDK[:, :, np.newaxis] + self.slack.option_steps(tokens_ND)
        fits_NDC = torch.from_numpy(np.all(reached_NDCK <= limits_NK[:, np.newaxis, np.newaxis], axis=3))
        limit_N = torch.from_numpy(limits_NK[:, 0].copy())
        rows_ND = torch.from_numpy(self.token_rows(tokens_ND))
        previous_NDE = torch.cat(
            [torch.zeros(len(tokens_ND), 1, self.embedding), self.token_VE[rows_ND[:, :-1]]], dim=1
        )
        slack_NDP = slack_features(limit_N.unsqueeze(1), torch.from_numpy(bounds_NDK[:, :, 0]), self.low, self.high)
        budget_N1E = self.budget_input(budget_features(limit_N, self.low, self.high)).unsqueeze(1)
        hidden_NDH, _ = self.lstm(previous_NDE + self.step_DE + budget_N1E + self.slack_input(slack_NDP))
        logits_NDC = torch.einsum("ndh,dhc->ndc", hidden_NDH, self.head_DHC) + self.head_DC
        return logits_NDC.masked_fill(~fits_NDC, -math.inf)

    @torch.no_grad()
    def sample(self, limits_NK: NDArray[np.float32], noise_NDC: NDArray[np.float32]) -> Tokens:
        """Architectures within their limits, shape [N, D]: the arg max of masked logits plus noise, step by step.

        Gumbel noise makes exact samples of the policy (Gumbel-max); zero noise is greedy decoding.
        """
        count, num_decisions = len(limits_NK), len(self.space.decisions)
        limits = torch.from_numpy(limits_NK)
        steps_RK, inactive_R = torch.from_numpy(self.slack.steps_RK), torch.from_numpy(self.slack.inactive_R)
        strides_DD = torch.from_numpy(self.slack.stride_DD)
        options_C = torch.arange(self.width)
        rows_N = torch.arange(count)
        bound_NK = torch.from_numpy(self.slack.base_K).expand(count, -1)
        chosen_ND = torch.zeros(count, num_decisions, dtype=torch.int64)  # token + 1
        previous_NE = torch.zeros(count, self.embedding)
        state = (torch.zeros(1, count, self.hidden), torch.zeros(1, count, self.hidden))
        budget_NE = self.budget_input(budget_features(limits[:, 0], self.low, self.high))
        for t in range(num_decisions):
            slack_NP = slack_features(limits[:, 0], bound_NK[:, 0], self.low, self.high)
            input_NE = previous_NE + self.step_DE[t] + budget_NE + self.slack_input(slack_NP)
            hidden_N1H, state = self.lstm(input_NE.unsqueeze(1), state)
            entry_N = int(self.slack.offset_D[t]) + (chosen_ND * strides_DD[t]).sum(dim=1)
            entry_NC = (entry_N.unsqueeze(1) + options_C).clamp(max=len(steps_RK) - 1)
            reached_NCK = bound_NK.unsqueeze(1) + steps_RK[entry_NC]
            fits_NC = (reached_NCK <= limits.unsqueeze(1)).all(dim=2) & (options_C < int(self.slack.width_D[t]))
            logits_NC = hidden_N1H[:, 0] @ self.head_DHC[t] + self.head_DC[t] + torch.from_numpy(noise_NDC[:, t])
            token_N = logits_NC.masked_fill(~fits_NC, -math.inf).argmax(dim=1)
            bound_NK = reached_NCK[rows_N, token_N]
            token_N = torch.where(inactive_R[entry_N], INACTIVE, token_N)
            chosen_ND[:, t] = token_N + 1
            previous_NE = self.token_VE[
                torch.where(token_N == INACTIVE, self.inactive_row, int(self.starts_D[t]) + token_N)
            ]
        return (chosen_ND - 1).numpy()

"""The recipe of the official PNAG code, rebuilt from its description to stand beside ours.

One-hot budgets with an embedding each, an LSTM that decides everything (inactive decisions too, whose log-probability
counts), one architecture per step, reward times 1e-3, entropy weight 1e-3, no baseline, Adam at 3e-4; every so often
ten samples per budget are evaluated and the best that fits is kept. There is no slack mask. An unseen budget is
answered by the networks kept for the trained budgets and ten samples of the nearest trained budget below.

Axis letters: D = decisions, E = embedding width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pnag.models.space.search_space import SearchSpace, Tokens

Floats = NDArray[np.float64]

HIDDEN = 64
NUM_CONDITIONS = 5
LEARNING_RATE = 3e-4
REWARD_SCALE = 1e-3
ENTROPY_WEIGHT = 1e-3
ITERATIONS = 10_001
VALIDATE_EVERY = 500
NUM_SAMPLES = 10


class OfficialController(nn.Module):
    """The policy; decisions with the same options share embeddings and output layer, as in the official code."""

    def __init__(self, space: SearchSpace, num_conditions: int) -> None:
        super().__init__()
        kinds = list(dict.fromkeys(d.options for d in space.decisions))
        self.kind_D = [kinds.index(d.options) for d in space.decisions]
        self.num_options = [len(options) for options in kinds]
        self.start_D = [int(sum(self.num_options[:kind])) for kind in self.kind_D]
        self.condition_KE = nn.Parameter(torch.empty(num_conditions, HIDDEN))
        self.token_VE = nn.Parameter(torch.empty(sum(self.num_options), HIDDEN))
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.heads: list[nn.Linear] = [nn.Linear(HIDDEN, count) for count in self.num_options]
        self._registered = nn.ModuleList(self.heads)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.1, 0.1)

    def sample(self, condition: int, rng: np.random.Generator) -> Tokens:
        """One raw architecture, every decision taken, shape [D]; in numpy, where one row is fastest."""
        lstm = {name: p.detach().numpy() for name, p in self.lstm.named_parameters()}
        weight_GE = np.concatenate([lstm["weight_ih_l0"], lstm["weight_hh_l0"]], axis=1)
        bias_G = lstm["bias_ih_l0"] + lstm["bias_hh_l0"]
        heads = [(head.weight.detach().numpy(), head.bias.detach().numpy()) for head in self.heads]
        embedding = self.condition_KE.detach().numpy()[condition]
        token_VE = self.token_VE.detach().numpy()
        state = np.zeros((2, HIDDEN), dtype=np.float32)
        noise = rng.gumbel(size=(len(self.kind_D), max(self.num_options)))
        tokens = np.zeros(len(self.kind_D), dtype=np.int64)
        for t, kind in enumerate(self.kind_D):
            gates = weight_GE @ np.concatenate([embedding, state[0]]) + bias_G
            i, f, g, o = gates.reshape(4, HIDDEN)
            cell = state[1] / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            state = np.stack([np.tanh(cell) / (1 + np.exp(-o)), cell])
            weight, bias = heads[kind]
            tokens[t] = int(np.argmax(weight @ state[0] + bias + noise[t, : len(bias)]))
            embedding = token_VE[self.start_D[t] + tokens[t]]
        return tokens

    def log_prob_and_entropy(self, tokens_D: Tokens, condition: int) -> tuple[Tensor, Tensor]:
        """Summed over all decisions, inactive ones included."""
        rows = torch.tensor([start + int(t) for start, t in zip(self.start_D, tokens_D, strict=True)])
        inputs_DE = torch.cat([self.condition_KE[condition : condition + 1], self.token_VE[rows[:-1]]])
        hidden_DH = self.lstm(inputs_DE.unsqueeze(0))[0][0]
        log_prob, entropy = torch.zeros(()), torch.zeros(())
        for kind, head in enumerate(self.heads):
            here = [t for t, k in enumerate(self.kind_D) if k == kind]
            log_TC = torch.log_softmax(head(hidden_DH[here]), dim=1)
            log_prob = log_prob + log_TC.gather(1, torch.from_numpy(tokens_D[here]).unsqueeze(1)).sum()
            entropy = entropy - (log_TC.exp() * log_TC).sum()
        return log_prob, entropy

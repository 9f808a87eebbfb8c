"""The paper's evaluator: a learned score R(a | B) that ranks architectures at a budget (PNAG, section 3.3).

One network sees an architecture's features and an embedding of the budget; K budgets have learned embeddings, and any
budget between two of them gets their linear interpolation. It is trained on pairs alone: the hinge of eq. 4 under the
dominance rule of eq. 5. Kept for reproduction; `composite_score` is the default, because a learned score misjudges
which architectures fit (docs/lab-log.md).

Axis letters: N = architectures, K = budgets, F = features, E = width of the budget's embedding.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pnag.models.accuracy.features import ArchitectureFeatures
from pnag.models.errors import TrainingError
from pnag.models.space.search_space import SearchSpace, Tokens
from pnag.trainer.config import RankingConfig
from pnag.trainer.evaluator.dominance import dominance, ranking_loss
from pnag.trainer.progress import Progress
from pnag.trainer.repeatable import use_one_thread

Floats = NDArray[np.float64]


class RankingEvaluator(nn.Module):
    """R(a | B) for any real budget; budgets beyond the K known ones are treated as the nearest.

    Args:
        budgets_K: rising, at least two.
    """

    def __init__(self, space: SearchSpace, features_NF: Floats, budgets_K: Floats, config: RankingConfig) -> None:
        super().__init__()
        self.features = ArchitectureFeatures(space)
        self.budgets_K = budgets_K
        spread_F = features_NF.std(axis=0)
        self.shift_F, self.spread_F = features_NF.mean(axis=0), np.where(spread_F < 1e-9, 1.0, spread_F)
        self.embedding_KE = nn.Parameter(torch.randn(len(budgets_K), config.embedding) * 0.5)
        self.network = nn.Sequential(
            nn.Linear(features_NF.shape[1] + config.embedding, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, 1),
        )

    def embed(self, budget_N: Floats) -> Tensor:
        """Embeddings of any budgets, by linear interpolation, shape [N, E]."""
        place_N = np.interp(budget_N, self.budgets_K, np.arange(len(self.budgets_K)))
        left_N = np.minimum(place_N.astype(np.int64), len(self.budgets_K) - 2)
        share_N1 = torch.from_numpy((place_N - left_N).astype(np.float32)).unsqueeze(1)
        return torch.lerp(self.embedding_KE[left_N], self.embedding_KE[left_N + 1], share_N1)

    def forward(self, features_NF: Tensor, embedding_NE: Tensor) -> Tensor:
        """Scores, shape [N]."""
        scores: Tensor = self.network(torch.cat([features_NF, embedding_NE], dim=1)).squeeze(1)
        return scores

    def standardised(self, tokens_ND: Tokens) -> Tensor:
        """Features as the network sees them, shape [N, F]."""
        return torch.from_numpy(((self.features(tokens_ND) - self.shift_F) / self.spread_F).astype(np.float32))

    @torch.no_grad()
    def score(self, tokens_ND: Tokens, budget_N: Floats) -> Floats:
        """R(a | B) of each architecture at its budget, shape [N]."""
        scores: Floats = self(self.standardised(tokens_ND), self.embed(budget_N)).numpy().astype(np.float64)
        return scores


def train_ranking_evaluator(
    space: SearchSpace, tokens_ND: Tokens, cost_N: Floats, accuracy_N: Floats, config: RankingConfig, seed: int,
    progress: Progress,
) -> RankingEvaluator:  # fmt: skip
    """Fit on measured architectures; each step draws M of them and compares all pairs at all K budgets.

    Raises:
        TrainingError: if there are fewer than two architectures, or they all cost the same.
    """
    if len(tokens_ND) < 2:
        raise TrainingError(f"{len(tokens_ND)} architectures; a ranking needs at least two to compare")
    if np.ptp(cost_N) <= 0:
        raise TrainingError(f"every architecture costs {cost_N[0]:.4g}; a ranking over budgets needs different costs")
    use_one_thread(seed)
    rng = np.random.default_rng([seed, 4])
    budgets_K = np.linspace(cost_N.min(), cost_N.max(), config.budgets)
    evaluator = RankingEvaluator(space, ArchitectureFeatures(space)(tokens_ND), budgets_K, config)
    features_NF = evaluator.standardised(tokens_ND)
    optimizer = torch.optim.AdamW(evaluator.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    count = min(config.batch_size, len(tokens_ND))
    with progress.stage("ranking evaluator", config.steps) as bar:
        for _ in range(config.steps):
            rows = rng.choice(len(tokens_ND), count, replace=False)
            order_KNN = torch.from_numpy(dominance(cost_N[rows], accuracy_N[rows], budgets_K).astype(np.float32))
            features = features_NF[rows].repeat(len(budgets_K), 1)
            embedding = evaluator.embedding_KE.repeat_interleave(count, dim=0)
            score_KN = evaluator(features, embedding).reshape(len(budgets_K), count)
            loss = ranking_loss(score_KN, order_KNN, config.margin)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            bar.step(note=f"hinge {loss.item():.4f}")
    return evaluator

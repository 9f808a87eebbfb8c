"""Variation of architectures in an evolutionary search: mutation and uniform crossover, valid under any space's rules.

Axis letters: B = architectures, D = decisions.
"""

import numpy as np

from pnag.models.space.search_space import INACTIVE, SearchSpace, Tokens


def mutate(space: SearchSpace, tokens_BD: Tokens, probability: float, rng: np.random.Generator) -> Tokens:
    """Redraw each decision with the given probability; one that a mutation activates is drawn uniformly.

    A mutant that the space forbids is replaced by its parent.
    """
    fresh_BD = rng.integers(0, space.num_options_D, size=tokens_BD.shape)
    redraw_BD = (rng.random(tokens_BD.shape) < probability) | (tokens_BD == INACTIVE)
    return _allowed_or_parent(space, np.where(redraw_BD, fresh_BD, tokens_BD), tokens_BD)


def crossover(space: SearchSpace, tokens_BD: Tokens, other_BD: Tokens, rng: np.random.Generator) -> Tokens:
    """Take each decision from either parent with equal chance; where one parent has none, take the other's.

    A child that the space forbids is replaced by its first parent.
    """
    take_other_BD = rng.random(tokens_BD.shape) < 0.5
    mixed_BD = np.where(take_other_BD, other_BD, tokens_BD)
    mixed_BD = np.where(mixed_BD == INACTIVE, np.where(take_other_BD, tokens_BD, other_BD), mixed_BD)
    # A decision may be active in the child and in neither parent: option 0 would bias towards small, so draw.
    fresh_BD = rng.integers(0, space.num_options_D, size=tokens_BD.shape)
    return _allowed_or_parent(space, np.where(mixed_BD == INACTIVE, fresh_BD, mixed_BD), tokens_BD)


def _allowed_or_parent(space: SearchSpace, raw_BD: Tokens, parent_BD: Tokens) -> Tokens:
    child_BD = space.canonical(raw_BD)
    return np.where(space.allowed(child_BD)[:, np.newaxis], child_BD, parent_BD)

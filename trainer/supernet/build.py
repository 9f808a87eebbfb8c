"""Which supernet shares the weights of a space."""

from pnag.models.space.ofa_mobilenetv3 import OfaMobileNetV3
from pnag.models.space.search_space import SearchSpace
from pnag.trainer.supernet.elastic import ElasticSupernet
from pnag.trainer.supernet.single_path import SinglePathSupernet
from pnag.trainer.supernet.supernet import Supernet


def build_supernet(space: SearchSpace) -> Supernet:
    """A supernet with fresh weights: elastic for OFA's spaces, else one block per choice.

    Raises:
        SearchSpaceError: if the space has neither.
    """
    return ElasticSupernet(space) if isinstance(space, OfaMobileNetV3) else SinglePathSupernet(space)

"""Which supernet shares the weights of a space."""

from models.search_space import SearchSpace
from models.spaces.ofa_mobilenetv3 import OfaMobileNetV3
from trainer.supernet.elastic import ElasticSupernet
from trainer.supernet.single_path import SinglePathSupernet
from trainer.supernet.supernet import Supernet


def build_supernet(space: SearchSpace) -> Supernet:
    """A supernet with fresh weights: elastic for OFA's spaces, else one block per choice.

    Raises:
        SearchSpaceError: if the space has neither.
    """
    return ElasticSupernet(space) if isinstance(space, OfaMobileNetV3) else SinglePathSupernet(space)

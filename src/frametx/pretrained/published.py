"""What reading somebody else's weights gives, and what keeps it from running code."""

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, AttributeError)
"""What `torch.load` raises of a file that is damaged, or holds more than it may."""
_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"  # torch obeys it whatever its caller asks for


class Pretrained(NamedTuple):
    """A separator that somebody else has trained.

    Attributes:
        model: what the user types after `model=`.
        separator: config of the separator.
        weights: of its network, under our names.
        members: weights of the members of an ensemble, by names that begin with a number.
    """

    model: str
    separator: dict[str, Any]
    weights: dict[str, Tensor]
    members: Mapping[str, Tensor] = MappingProxyType({})


@contextmanager
def no_code(*classes: type) -> Iterator[None]:
    """Let `torch.load` read plain weights and these classes alone, whatever a package asks for."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        with torch.serialization.safe_globals(list(classes)):
            yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before

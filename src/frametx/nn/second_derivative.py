"""Second derivatives of functions whose gradient is written by hand.

A hand-written gradient saves memory or time and is not differentiable itself. A penalty on a
gradient needs it to be. Autograd says so in time: while it builds a graph of the backward pass,
gradients are enabled there. Then, and only then, the gradient is taken of a plain form of the
function, whose every step autograd knows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def plain_gradients(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Gradients with respect to every input, which can be differentiated again.

    Args:
        function: the plain form; it returns all outputs.
        inputs: of the function; None where it takes none.
        grads: with respect to every output; None where nothing follows.

    Returns:
        None for inputs that are None or need no gradient.
    """
    device = next(x.device.type for x in inputs if x is not None)
    with torch.enable_grad(), torch.autocast(device, enabled=False):
        # Aliases: one input may have been made of another, and only direct paths count here.
        aliases = [None if x is None else x.view_as(x) for x in inputs]
        pairs = zip(function(*aliases), grads, strict=True)
        outputs, known = zip(*((y, g) for y, g in pairs if g is not None), strict=True)
        wanted = [x for x in aliases if x is not None and x.requires_grad]
        found = iter(torch.autograd.grad(outputs, wanted, known, create_graph=True))
    return tuple(next(found) if x is not None and x.requires_grad else None for x in aliases)

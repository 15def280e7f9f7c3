"""Several losses as one."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn


class WeightedSum(nn.Module):
    """The sum of its terms, each of which carries its own weight.

    Args:
        terms: named losses of (estimates, stems).

    Raises:
        ValueError: if there is no term.
    """

    def __init__(self, *, terms: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not terms:
            raise ValueError(
                "loss.terms is empty: add one, as in +loss@loss.terms.mel=mel_l1, or take another "
                "loss"
            )
        self.terms = nn.ModuleDict(dict(terms))

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The sum."""
        total = estimates.new_zeros(())
        for term in self.terms.values():
            total = total + term(estimates, stems)
        return total

import torch

from frametx.audio.masking import apply_mask, ideal_ratio_mask


def test_ideal_masks_sum_to_one_even_in_silence() -> None:
    magnitudes = torch.rand(2, 3, 1, 5, 7)
    magnitudes[:, :, :, 0] = 0
    mask = ideal_ratio_mask(magnitudes)
    torch.testing.assert_close(mask.sum(dim=1), torch.ones(2, 1, 5, 7))


def test_masks_that_sum_to_one_give_stems_that_sum_to_the_mixture() -> None:
    mixture = torch.randn(2, 1, 5, 7, dtype=torch.complex64)
    mask = ideal_ratio_mask(torch.rand(2, 3, 1, 5, 7))
    torch.testing.assert_close(apply_mask(mixture, mask).sum(dim=1), mixture)

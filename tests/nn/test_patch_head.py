import pytest
import torch
import torch.nn.functional as F

from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.patch_head import BandHead, LinearHead, PatchHead

Size = dict[str, int]
SIZE: Size = {"in_channels": 3, "out_channels": 2, "num_features": 4}


@torch.no_grad()
@pytest.mark.parametrize("normalizes", [False, True])
@pytest.mark.parametrize("num_frames", [1, 6, 7])
def test_two_frames_of_every_band_share_a_logit(num_frames: int, normalizes: bool) -> None:
    head = PatchHead(**SIZE, frames_per_patch=2, normalizes=normalizes)
    x = torch.randn(2, 3, num_frames, 4)
    h = x
    if normalizes:
        assert isinstance(head.norm, MultichannelLayerNorm)
        torch.nn.init.normal_(head.norm.weight)
        torch.nn.init.normal_(head.norm.bias)
        deviation = (x.var(3, correction=0, keepdim=True) + 1e-8).sqrt()
        h = (x - x.mean(3, keepdim=True)) / deviation * head.norm.weight + head.norm.bias
    h = F.conv2d(h, head.conv.weight, head.conv.bias, stride=(2, 1), padding=(1, 0))
    expected = torch.einsum("kc,bctf->bktf", head.out.weight, h.relu().square())
    assert head.out.bias is not None
    expected = expected + head.out.bias[:, None, None]
    torch.testing.assert_close(head(x), expected)
    assert expected.shape == (2, 2, (num_frames + 1) // 2, 4)


@torch.no_grad()
def test_with_one_frame_a_patch_no_logit_sees_another_frame_or_band() -> None:
    head = PatchHead(**SIZE, frames_per_patch=1, normalizes=False)
    x = torch.randn(1, 3, 5, 4)
    changed = x.clone()
    changed[:, :, 2, 1] += 1
    moved = (head(changed) != head(x)).any(1)[0]
    assert moved.nonzero().tolist() == [[2, 1]]


@pytest.mark.parametrize("frames_per_patch", [1, 2, 3, 4, 5])
def test_every_frame_is_seen_by_a_patch_whatever_its_length(frames_per_patch: int) -> None:
    head = PatchHead(**SIZE, frames_per_patch=frames_per_patch, normalizes=False)
    for num_frames in range(1, 12):
        x = torch.randn(1, 3, num_frames, 4, requires_grad=True)
        logits = head(x)
        assert logits.shape[2] == -(-num_frames // frames_per_patch)
        logits.square().sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum((0, 1, 3)).all()


def test_a_patch_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"frames_per_patch \(0\) must be at least 1"):
        PatchHead(**SIZE, frames_per_patch=0, normalizes=False)


@torch.no_grad()
def test_the_linear_head_gives_a_logit_for_every_frame() -> None:
    head, x = LinearHead(**SIZE), torch.randn(2, 3, 5, 4)
    mixing = head.linear.mixing
    assert mixing is not None
    expected = torch.einsum("bctf,cof,kc->bkto", x, head.linear.weight, mixing)
    torch.testing.assert_close(head(x), expected)


@torch.no_grad()
def test_bands_are_means_over_neighbouring_bins_and_repeat_where_there_are_too_few() -> None:
    head, x = BandHead(in_channels=3, num_bands=4), torch.randn(2, 3, 5, 8)
    logits = head.out(F.conv2d(x, head.conv.weight, head.conv.bias, padding=1).relu().square())
    torch.testing.assert_close(head(x), logits.unflatten(3, (4, 2)).mean(4))
    few = x[..., :1]
    assert torch.equal(head(few), head(few)[..., :1].expand(-1, -1, -1, 4))

"""What every discriminator keeps to, whatever is inside."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from frametx.models.frame_discriminator import FrameDiscriminator, FrameMultiscaleDiscriminator
from frametx.models.patchgan import MultiscaleDiscriminator, PatchDiscriminator
from frametx.nn.block import recompute_blocks
from frametx.nn.patch_head import LinearHead, PatchHead
from frametx.nn.residual_scores import use_backend
from frametx.nn.rotary import Rotary

PATCH: dict[str, Any] = {
    "channels": 3,
    "num_layers": 2,
    "norm": "instance",
    "has_spectral_norm": False,
}
ENCODER: dict[str, Any] = {
    "channels": 2,
    "widths": [1, 2, 3],
    "num_attention_maps": 2,
    "expansion": 12,
    "dropout": 0.0,
    "kernel_sizes": [3, 5],
    "embedding_widths": [2],
    "embedding_kernel_size": 3,
    "score_scale": "features",
    "angle_precision": "float32",
}
FRAME: dict[str, Any] = ENCODER | {
    "num_plain_levels": 0,
    "num_heads": 2,
    "num_bridge_layers": 2,
    "bridge_dropout": 0.0,
    "bridge_kernel_size": 3,
    "restarts_bridge_residual": False,
    "out_channels": 1,
    "make_head": partial(PatchHead, frames_per_patch=2, normalizes=False),
}
DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "patchgan": partial(PatchDiscriminator, **PATCH),
    "patchgan, spectral norm": partial(
        PatchDiscriminator, **PATCH | {"norm": "none", "has_spectral_norm": True}
    ),
    "patchgan, several scales": partial(
        MultiscaleDiscriminator,
        num_scales=2,
        make_discriminator=partial(PatchDiscriminator, **PATCH | {"num_layers": 1}),
    ),
    "frame": partial(FrameDiscriminator, **FRAME),
    "frame, plain level and normalised head": partial(
        FrameDiscriminator,
        **FRAME
        | {
            "num_plain_levels": 1,
            "make_head": partial(PatchHead, frames_per_patch=2, normalizes=True),
        },
    ),
    "frame, linear head": partial(FrameDiscriminator, **FRAME | {"make_head": LinearHead}),
    "vocal presence": partial(
        FrameDiscriminator,
        **FRAME
        | {
            "out_channels": None,
            "make_head": partial(PatchHead, frames_per_patch=1, normalizes=False),
        },
    ),
    "frame, several scales": partial(
        FrameMultiscaleDiscriminator, **ENCODER | {"num_heads": [2, 2, 1], "num_bands": 4}
    ),
}
NUM_BINS = 32


@pytest.fixture(params=DISCRIMINATORS)
def make(request: pytest.FixtureRequest) -> Callable[..., nn.Module]:
    def make_discriminator(**changes: Any) -> nn.Module:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"in_channels": 4, "num_bins": NUM_BINS} | changes
        return DISCRIMINATORS[request.param](**sizes).eval()

    return make_discriminator


def shown(*, batch: int = 2, frames: int = 21) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(batch, 4, NUM_BINS, frames)


def certainty(discriminator: nn.Module, x: Tensor) -> Tensor:
    """How real it looks, on average over scales."""
    return torch.stack([logits.mean() for logits in discriminator(x).logits]).mean()


def energy(maps: list[Tensor]) -> Tensor:
    return torch.stack([values.float().square().sum() for values in maps]).sum()


@torch.no_grad()
def test_a_batch_is_its_members_one_by_one(make: Callable[..., nn.Module]) -> None:
    discriminator, batch = make(), shown(batch=3)
    together = discriminator(batch)
    for number, member in enumerate(batch):
        alone = discriminator(member[None])
        for ours, expected in zip(
            alone.logits + alone.features, together.logits + together.features, strict=True
        ):
            torch.testing.assert_close(ours[0], expected[number], atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("frames", [12, 13, 64])
def test_any_number_of_frames_gives_finite_patches(
    frames: int, make: Callable[..., nn.Module]
) -> None:
    judgement = make()(shown(frames=frames))
    assert judgement.features
    for logits in judgement.logits:
        assert logits.dim() == 4
        assert logits.numel() > 0
        assert logits.isfinite().all()


def test_the_gradient_reaches_every_parameter_and_all_that_is_shown(
    make: Callable[..., nn.Module],
) -> None:
    discriminator, x = make(), shown(frames=24).requires_grad_()
    judgement = discriminator(x)
    energy(judgement.logits).backward()
    unreached = [
        name
        for name, parameter in discriminator.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert unreached == []
    assert x.grad is not None
    # the convolutions' last patch ends before the last bins where sizes are odd
    assert x.grad[:, :, :-2, :-2].ne(0).float().mean() > 0.99


def test_the_features_are_what_the_logits_are_made_of(make: Callable[..., nn.Module]) -> None:
    judgement = make()(shown().requires_grad_())
    grads = torch.autograd.grad(energy(judgement.logits), judgement.features)
    assert all(grad.any() for grad in grads)


def test_a_step_along_its_gradient_makes_what_is_shown_look_more_real(
    make: Callable[..., nn.Module],
) -> None:
    discriminator, x = make(), shown().requires_grad_()
    before = certainty(discriminator, x)
    (gradient,) = torch.autograd.grad(before, x)
    with torch.no_grad():
        after = certainty(discriminator, x + 1e-2 * gradient / gradient.abs().max())
    assert after > before


def test_twenty_steps_tell_real_from_fake(make: Callable[..., nn.Module]) -> None:
    discriminator = make().train()
    real = shown(frames=13)
    fake = real * (torch.arange(NUM_BINS) < NUM_BINS // 2)[:, None]
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-2, betas=(0.5, 0.999))
    losses = []
    for _ in range(20):
        halves = (logits.chunk(2) for logits in discriminator(torch.cat([real, fake])).logits)
        loss = torch.stack([F.softplus(-r).mean() + F.softplus(f).mean() for r, f in halves]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def penalty(discriminator: nn.Module, x: Tensor) -> Tensor:
    """The squared gradient of the logits with respect to what is shown."""
    (gradient,) = torch.autograd.grad(certainty(discriminator, x), x, create_graph=True)
    return 1e3 * gradient.square().sum()


def test_the_gradient_of_a_gradient_penalty_is_that_of_finite_differences(
    make: Callable[..., nn.Module],
) -> None:
    discriminator, x = make().double(), shown(frames=13).double().requires_grad_()
    moved = [x, *discriminator.parameters()]
    grads = torch.autograd.grad(penalty(discriminator, x), moved, allow_unused=True)
    names = ["what is shown", *(name for name, _ in discriminator.named_parameters())]
    unreached = {
        name for name, grad in zip(names, grads, strict=True) if grad is None or not grad.any()
    }
    # a shift may move no gradient, and one that is straight in pieces depends on kernels alone
    assert all(name.endswith("bias") or name == "what is shown" for name in unreached)
    torch.manual_seed(2)
    directions = [torch.randn_like(value) * value.detach().abs().mean() for value in moved]
    pairs = zip(grads, directions, strict=True)
    slope = sum((grad * way).sum() for grad, way in pairs if grad is not None)
    # Rotations round to float32, so the step must be long; the slope of a leaky rectifier jumps at
    # zero, so there it must be short.
    has_rotations = any(isinstance(part, Rotary) for part in discriminator.modules())
    step, sides = 1e-5 if has_rotations else 1e-8, []
    for sign in (1, -2):
        with torch.no_grad():
            for value, way in zip(moved, directions, strict=True):
                value += sign * step * way
        sides.append(penalty(discriminator, x).detach())
    torch.testing.assert_close(slope, (sides[0] - sides[1]) / (2 * step), atol=1e-6, rtol=1e-3)


def test_the_gradient_flows_under_autocast_and_the_logits_stay_close(
    make: Callable[..., nn.Module],
) -> None:
    discriminator, x = make(), shown().requires_grad_()
    exact = discriminator(x).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = discriminator(x).logits
    for ours, expected in zip(rough, exact, strict=True):
        error = (ours.float() - expected).square().mean().sqrt()
        assert error < 0.1 * expected.square().mean().sqrt()
    energy(rough).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_the_nyquist_bin_is_refused(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=f"{NUM_BINS + 1} bins, the network takes {NUM_BINS}"):
        make()(torch.rand(2, 4, NUM_BINS + 1, 21))


@pytest.mark.parametrize("name", [name for name in DISCRIMINATORS if "frame" in name])
def test_running_blocks_again_in_backward_changes_no_gradient(name: str) -> None:
    torch.manual_seed(0)
    discriminator = DISCRIMINATORS[name](in_channels=4, num_bins=NUM_BINS, dropout=0.3).train()
    x = shown().requires_grad_()
    gradients = []
    for recomputes in (False, True):
        recompute_blocks(discriminator, recomputes=recomputes)
        torch.manual_seed(2)
        gradients.append(torch.autograd.grad(certainty(discriminator, x), x)[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("name", ["frame", "frame, several scales"])
def test_fused_and_materialised_scores_give_the_same_first_and_second_derivatives(
    name: str,
) -> None:
    torch.manual_seed(0)
    discriminator = DISCRIMINATORS[name](in_channels=4, num_bins=NUM_BINS).double()
    x = shown(frames=13).double().requires_grad_()
    results = []
    for backend in ("fused", "materialised"):
        use_backend(discriminator, backend)
        (first,) = torch.autograd.grad(certainty(discriminator, x), x)
        with sdpa_kernel(SDPBackend.MATH):
            (second,) = torch.autograd.grad(penalty(discriminator, x), x)
        results.append((first, second))
    for ours, expected in zip(*results, strict=True):
        assert expected.any()
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-4)


def test_only_torchs_fused_attention_has_no_second_derivative() -> None:
    discriminator = DISCRIMINATORS["frame"](in_channels=4, num_bins=NUM_BINS)
    use_backend(discriminator, "fused")
    with pytest.raises(RuntimeError, match=r"derivative for aten::_scaled_dot_product"):
        penalty(discriminator, shown().requires_grad_()).backward()

"""What every network of the family keeps to, whatever is inside."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.nn.block import recompute_blocks
from frametx.nn.residual_scores import use_backend

Case = Any  # of conftest.py


def gradients(network: nn.Module, magnitude: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    network(magnitude).square().mean().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


@torch.no_grad()
def test_as_many_frames_of_finite_logits_come_out_as_frames_went_in(case: Case) -> None:
    network = case.build()
    for frames in case.frames:
        x = case.magnitude(frames=frames)
        logits = network(x)
        assert logits.shape == (2, case.config["out_channels"], *x.shape[2:])
        assert logits.isfinite().all()


@torch.no_grad()
def test_a_batch_is_its_members_one_by_one(case: Case) -> None:
    network, batch = case.build(), case.magnitude(batch=3)
    alone = torch.cat([network(member[None]) for member in batch])
    torch.testing.assert_close(network(batch), alone, atol=1e-5, rtol=1e-4)


def test_the_gradient_reaches_every_parameter_that_takes_part(case: Case) -> None:
    network = case.build()
    reached = {name for name, grad in gradients(network, case.magnitude()).items() if grad.any()}
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained - reached == set(case.unused)


@torch.no_grad()
def test_evaluation_is_deterministic_and_dropout_makes_training_random(case: Case) -> None:
    network, x = case.build(dropout=0.3), case.magnitude()
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_fused_and_materialised_scores_give_the_same_logits_and_gradients(case: Case) -> None:
    network, x = case.build().double(), case.magnitude().double()
    results = []
    for backend in ("fused", "materialised"):
        use_backend(network, backend)
        results.append((network(x).detach(), gradients(network, x)))
    (logits, ours), (expected_logits, expected) = results
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-5, rtol=1e-5)


def test_running_blocks_again_in_backward_changes_no_gradient(case: Case) -> None:
    network, x = case.build(dropout=0.3).train(), case.magnitude()
    torch.manual_seed(2)
    kept = gradients(network, x)
    recompute_blocks(network)
    torch.manual_seed(2)
    again = gradients(network, x)
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient)


def test_the_gradient_flows_under_autocast_and_the_logits_stay_close(case: Case) -> None:
    network, x = case.build(), case.magnitude()
    exact = network(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x)
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)
    rough.float().square().mean().backward()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


@pytest.mark.slow  # tests/test_every_model.py has a step that lowers the loss
def test_thirty_steps_on_one_batch_halve_the_loss(case: Case) -> None:
    network, x = case.build().train(), case.magnitude()
    shape = network(x).shape
    wanted = (torch.arange(shape[2]) % 3 == 0).float()[:, None].expand(shape)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(network(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_exported_for_a_number_of_frames_it_returns_the_same_logits(case: Case) -> None:
    network, x = case.build(), case.magnitude(batch=1)
    exported = torch.export.export(network, (torch.zeros_like(x),))
    torch.testing.assert_close(exported.module()(x), network(x), atol=1e-5, rtol=1e-4)


def test_the_nyquist_bin_is_refused(case: Case) -> None:
    x = case.magnitude()
    with pytest.raises(ValueError, match=rf"{x.shape[2] + 1} bins, the network takes {x.shape[2]}"):
        case.build()(torch.cat([x, x[:, :, -1:]], 2))


def test_heads_that_do_not_divide_the_features_are_refused(case: Case) -> None:
    with pytest.raises(ValueError, match=r"cannot be split into 5 (heads|groups)"):
        case.build(num_heads=5)

"""The originals' numbers from the plain networks, under the originals' own names of weights."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

CHECKOUT = Path(__file__).parents[2]
if not (CHECKOUT / "benchmarks" / "plain").is_dir():
    pytest.skip(f"no benchmarks in {CHECKOUT}: not a checkout", allow_module_level=True)
sys.path.insert(0, str(CHECKOUT))

from benchmarks.plain import CASES, PLAIN  # noqa: E402
from benchmarks.plain.blocks import sinusoids  # noqa: E402

# fixture: network, arguments that are no argument of the original's, tolerance (max abs)
REFERENCES: dict[str, tuple[str, dict[str, Any], float]] = {
    "v1_thin": ("v1", {}, 5e-5),
    "positionwise": ("positionwise", {}, 2e-5),
    "v2b": ("v2b", {}, 1e-4),
    "v2b_posemb": ("v2b", {"has_sinusoids": False}, 1e-4),
    "v3": ("v3", {}, 1e-5),
    "bert": ("bert", {}, 1e-5),
    "asym_unet_mct": ("asym_unet_mct", {}, 1e-5),
    "asym_unet_mct_gen_vout": ("asym_unet_mct", {"has_vocal_bands": True}, 5e-4),
    "v7": ("v7", {}, 1e-5),
    "v8": ("v8", {"rounds": True}, 3e-3),
    "v81": ("v8", {}, 1e-5),
    "v9_patch": ("v9_patch", {}, 1e-5),
    "v10_temporal": ("v10_temporal", {}, 1e-5),
}
RELATIVE = ("v2b", "v2b_posemb")  # their tolerance is a share of the largest output

# Weights that the originals carry and never read.
DEAD = {
    "v1": [f"dec{i}_transformer.norm3." for i in range(1, 6)],
    "positionwise": [f"enc{i}_transformer.norm3." for i in range(1, 7)],
}
SMALL: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "v1": ({"n_fft": 128, "num_heads": 1, "expansion": 2}, (2, 2, 64, 6)),
    "positionwise": ({"n_fft": 64, "num_heads": [1] * 6, "expansion": 1}, (2, 2, 32, 6)),
    "v2b": (
        {"n_fft": 512, "num_heads": 2, "expansion": 1, "transformer_channels": [2] * 7},
        (2, 2, 256, 5),
    ),
    "v3": ({"n_fft": 32, "num_layers": 2}, (2, 2, 16, 6)),
    "bert": ({"n_fft": 512, "num_layers": 1, "expansion": 1, "hidden_size": 256}, (2, 2, 256, 5)),
    "asym_unet_mct": (
        {"n_fft": 512, "num_heads": 1, "num_bridge_layers": 1, "num_attention_maps": 1},
        (2, 2, 256, 4),
    ),
    "v7": ({"n_fft": 512, "num_heads": 2, "expansions": [8] * 9}, (2, 2, 256, 4)),
    "v8": ({"n_fft": 128, "num_heads": 1, "num_attention_maps": 2}, (2, 2, 64, 6)),
    "v9_patch": ({"n_fft": 64, "channels": 2, "num_layers": 2, "chunk_size": 4}, (2, 2, 32, 64)),
    "v10_temporal": ({"n_fft": 32, "num_heads": 2, "expansion": 1}, (2, 2, 16, 9)),
}

# network, arguments, parameters, entries of the state_dict, numbers in its tables; as the specs say
V3_SIZES = [(2, 15, 4, 125_956_600, 227), (8, 8, 16, 268_736_672, 122)]
V3_SIZES += [(8, 12, 16, 403_104_928, 182), (8, 12, 8, 403_104_928, 182)]
V3_SIZES += [(8, 10, 8, 335_920_800, 152)]  # between those two in steps of a layer
BERT_LARGE = {"channels": 4, "num_layers": 24, "num_heads": 16}
BERT_WIDE = {"channels": 8, "num_layers": 12, "num_heads": 16}
ASYM_8 = {"channels": 8, "expansion": 10240, "num_heads": 8}
ASYM_16 = {**ASYM_8, "channels": 16}
GENERATOR = {"has_vocal_bands": True, "num_attention_maps": 1}
V2B_8 = {"channels": 8, "num_heads": 8}
V7_RELEASED = {"channels": 8, "num_heads": 8, "num_attention_maps": 2}
V9_RELEASED = {"in_channels": 10, "channels": 16, "num_heads": 8, "expansion": 512}
Size = tuple[str, dict[str, Any], int, int | None, int | None]
SIZES: list[Size] = [
    ("v1", {}, 51_769_592, 247, None),
    ("v1", {"channels": 8, "num_heads": 8, "expansion": 24}, 205_948_976, 247, 438),
    ("positionwise", {}, 135_345_876, 420, 374),
    ("positionwise", {"channels": 16, "expansion": 12}, 2_317_949_824, 420, 374),
    ("v2b", {}, 253_366_778, 416, None),
    ("v2b", {**V2B_8, "expansion": 6}, 255_797_690, 416, 4_194_304 + 438),
    ("v2b", {**V2B_8, "expansion": 4}, 255_735_194, 416, 4_194_304 + 438),
    ("v2b", {**V2B_8, "expansion": 6, "has_sinusoids": False}, 255_793_432, 415, 438),
    *(
        ("v3", {"channels": c, "num_layers": n, "num_heads": h}, parameters, keys, None)
        for c, n, h, parameters, keys in V3_SIZES
    ),
    ("bert", {}, 383_238_721, 331, 0),
    ("bert", BERT_LARGE, 1_216_686_667, 475, 0),
    ("bert", BERT_WIDE, 1_220_880_991, 283, 0),
    ("asym_unet_mct", {}, 157_809_403, None, None),
    ("asym_unet_mct", ASYM_8, 501_049_283, None, None),
    ("asym_unet_mct", ASYM_16, 529_718_531, None, None),
    ("asym_unet_mct", GENERATOR, 40_183_873, None, None),
    ("asym_unet_mct", {**GENERATOR, **ASYM_8}, 134_562_301, None, None),
    ("asym_unet_mct", {**GENERATOR, **ASYM_16}, 168_759_309, None, None),
    ("v7", {}, 50_612_369, None, None),
    ("v7", V7_RELEASED, 103_013_180, None, None),
    ("v8", {}, 104_261_744, None, None),
    ("v8", {"channels": 8, "num_heads": 8}, 227_730_588, None, None),
    ("v9_patch", {}, 3_370_394, None, None),
    ("v9_patch", {**V9_RELEASED, "num_layers": 17}, 160_365_690, None, 34),
    ("v10_temporal", {}, 400_443_954, None, 1024),
    ("v10_temporal", {"embedding": 8}, 405_881_668, None, 1024),
]


def small(variant: str, dropout: float = 0.0) -> tuple[nn.Module, Tensor]:
    arguments, shape = SMALL[variant]
    torch.manual_seed(3)
    arguments = {**arguments, "dropout": dropout}
    if variant == "positionwise":
        arguments["frame_dropout"] = dropout
    return PLAIN[variant](**arguments), torch.rand(shape)


def count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("name", REFERENCES)
@torch.no_grad()
def test_the_original_weights_load_and_return_the_original_logits(
    name: str, reference: Callable[[str], dict[str, Any]]
) -> None:
    stored = reference(name)
    variant, more, within = REFERENCES[name]
    network = PLAIN[variant](**stored["config"], **more).eval()
    tables = {key: sinusoids(stored["config"]["n_fft"] // 2) for key in stored["omitted_buffers"]}
    network.load_state_dict(stored["state_dict"] | tables, strict=True)
    returned, expected = network(stored["input"]), stored["output"]
    returned = returned if isinstance(returned, tuple) else [returned]
    expected = expected if isinstance(expected, list) else [expected]
    assert len(returned) == len(expected)
    for ours, theirs in zip(returned, expected, strict=True):
        largest = theirs.abs().max().item() if name in RELATIVE else 1
        torch.testing.assert_close(ours, theirs, rtol=0, atol=within * largest)


@pytest.mark.parametrize(("variant", "arguments", "parameters", "keys", "table_numbers"), SIZES)
def test_every_size_of_the_specs_has_their_number_of_parameters(
    variant: str,
    arguments: dict[str, Any],
    parameters: int,
    keys: int | None,
    table_numbers: int | None,
) -> None:
    with torch.device("meta"):
        network = PLAIN[variant](**arguments)
    assert count(network.parameters()) == parameters
    assert keys in (None, len(network.state_dict()))
    assert table_numbers in (None, count(network.buffers()))


@pytest.mark.parametrize(
    ("arguments", "trainable"),
    [({}, 5_352_001), (BERT_LARGE, 7_449_163), (BERT_WIDE, 11_643_487)],
)
def test_the_layers_of_bert_are_frozen(arguments: dict[str, Any], trainable: int) -> None:
    with torch.device("meta"):
        network = PLAIN["bert"](**arguments)
    assert count(p for p in network.parameters() if p.requires_grad) == trainable


@pytest.mark.parametrize("variant", PLAIN)
@torch.no_grad()
def test_a_batch_equals_a_loop(variant: str) -> None:
    network, x = small(variant)
    looped = torch.cat([network.eval()(item[None]) for item in x])
    torch.testing.assert_close(network(x), looped, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", PLAIN)
def test_gradient_reaches_every_weight_but_the_dead_ones(variant: str) -> None:
    network, x = small(variant)
    network.requires_grad_(True)
    network.train()(x).square().mean().backward()
    unreached = {name for name, weight in network.named_parameters() if weight.grad is None}
    dead = {
        name
        for name, _ in network.named_parameters()
        if any(name.startswith(prefix) for prefix in DEAD.get(variant, []))
    }
    assert unreached == dead
    assert dead or variant not in DEAD


@pytest.mark.parametrize("variant", PLAIN)
@torch.no_grad()
def test_dropout_acts_in_training_only(variant: str) -> None:
    network, x = small(variant, dropout=0.5)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


@torch.no_grad()
def test_the_generator_drops_in_its_deepest_decoders_whatever_dropout_says() -> None:
    arguments, shape = SMALL["asym_unet_mct"]
    network = PLAIN["asym_unet_mct"](**arguments, dropout=0.0, has_vocal_bands=True)
    dropped = {
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Dropout) and module.p == 0.5
    }
    assert dropped == {f"dec{i}.body.dropout" for i in (5, 6, 7, 8)}
    x = torch.rand(shape)
    assert not torch.equal(network.train()(x)[0], network(x)[0])


@pytest.mark.parametrize("variant", PLAIN)
def test_a_bench_case_can_be_repeated_and_is_neither_tiny_nor_huge(variant: str) -> None:
    with torch.device("meta"):
        network = PLAIN[variant](**CASES[variant])
    drops = (nn.Dropout, nn.Dropout2d)
    assert all(module.p == 0 for module in network.modules() if isinstance(module, drops))
    assert 1e6 < count(network.parameters()) < 200e6


def test_an_argument_that_the_original_never_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="num_attention_maps"):
        PLAIN["v9_patch"](num_attention_maps=2)
    with pytest.raises(ValueError, match="hidden_size"):
        PLAIN["bert"](hidden_size=768)

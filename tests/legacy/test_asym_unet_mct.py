"""The original's numbers, from its own weights through the conversion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.legacy import asym_unet_mct as legacy
from frametx.models.asym_unet_mct import AsymUNetMCT
from frametx.nn.convolutional_embedding import ConvolutionalEmbedding
from frametx.nn.convolutional_transformer_encoder import ConvolutionalTransformerEncoder
from frametx.nn.frame_transformer_decoder import FrameTransformerDecoder
from frametx.nn.frame_transformer_encoder import FrameTransformerEncoder
from frametx.nn.sinusoid import sinusoid_table

FIXTURES = Path(__file__).parents[3] / "shared" / "parity"


def fixture(name: str) -> dict[str, Any]:
    path = FIXTURES / f"{name}.pt"
    if not path.is_file():
        pytest.skip(f"no reference numbers at {path}")
    return torch.load(path, weights_only=True)


def weights(stored: dict[str, Any]) -> dict[str, Tensor]:
    """Large matrices are stored as int8 and a scale, exactly."""
    return {
        key: (value["q"].float() * value["scale"] if isinstance(value, dict) else value).clone()
        for key, value in stored.items()
    }


def close(ours: Tensor, theirs: Tensor, *, within: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=within)


def frames_first(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous()


def block(
    module: nn.Module, stored: dict[str, Any], convert: Callable[[legacy.Weights], legacy.Weights]
) -> nn.Module:
    module.load_state_dict(convert(weights(stored["state_dict"])))
    return module.eval()


def network(stored: dict[str, Any]) -> AsymUNetMCT:
    config, converted = legacy.convert(weights(stored["state_dict"]))
    model = AsymUNetMCT(**config)
    model.load_state_dict(converted)
    return model.eval()


@torch.no_grad()
def test_the_whole_network_returns_the_original_logits() -> None:
    stored = fixture("asym_unet_mct")
    model = network(stored)
    assert sum(p.numel() for p in model.parameters()) == stored["params"]
    close(model(stored["input"]), stored["output"])


@torch.no_grad()
def test_the_network_with_vocal_bands_returns_both_of_the_original_outputs() -> None:
    # one feature is left at the bridge and two above it, where norms amplify rounding
    stored = fixture("asym_unet_mct_gen_vout")
    model = network(stored)
    assert sum(p.numel() for p in model.parameters()) == stored["params"]
    logits, bands = model.forward_with_vocal_bands(stored["input"])
    expected_logits, expected_bands = stored["output"]
    assert bands is not None
    close(logits, expected_logits, within=5e-4)
    close(bands, expected_bands, within=5e-4)


@pytest.mark.parametrize("name", ["asym_unet_mct", "asym_unet_mct_gen_vout"])
def test_the_files_hyper_parameters_are_read_from_its_entries(name: str) -> None:
    stored = fixture(name)
    config, _ = legacy.convert(weights(stored["state_dict"]))
    asked = {key: value for key, value in stored["config"].items() if key != "max_bin"}
    assert asked == {key: config[key] for key in asked}
    assert config["widths"] == [1, 2, 4, 6, 8, 10, 12, 14, 16]
    assert config["embedding_widths"] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert config["encoder_kernel_sizes"] == [3, 9]
    assert config["decoder_kernel_sizes"] == [11, 7, 7]


def test_the_prefix_of_a_parallel_wrapper_changes_nothing() -> None:
    old = weights(fixture("asym_unet_mct")["state_dict"])
    config, plain = legacy.convert(old)
    wrapped_config, wrapped = legacy.convert({f"module.{key}": x for key, x in old.items()})
    assert wrapped_config == config
    assert wrapped.keys() == plain.keys()


def test_a_file_without_rotary_tables_needs_the_number_of_heads() -> None:
    old = weights(fixture("asym_unet_mct")["state_dict"])
    bare = {key: value for key, value in old.items() if not key.endswith("freqs")}
    with pytest.raises(ValueError, match="num_heads"):
        legacy.convert(bare)
    config, _ = legacy.convert(bare, num_heads=2)
    assert config["num_heads"] == 2


@pytest.mark.parametrize(
    "missing", ["out.weight", "dec3_transformer.attn2.k_proj.1.bias", "enc9.body.norm.bias"]
)
def test_a_missing_entry_is_named(missing: str) -> None:
    old = weights(fixture("asym_unet_mct")["state_dict"])
    del old[missing]
    with pytest.raises(ValueError, match=missing.rsplit(".", 1)[1]):
        legacy.convert(old)


def test_an_unknown_entry_is_refused() -> None:
    old = weights(fixture("asym_unet_mct")["state_dict"])
    with pytest.raises(ValueError, match="src_attn"):
        legacy.convert(old | {"enc1_transformer.src_attn.weight": torch.zeros(1)})


@torch.no_grad()
@pytest.mark.parametrize("case", ["noprev", "prev"])
def test_the_encoder_transformer_returns_the_original_maps_and_scores(case: str) -> None:
    stored = fixture("asym_modules")["encoder"]
    config = stored["config"]
    encoder = block(
        FrameTransformerEncoder(
            in_channels=config["channels"],
            num_attention_maps=config["out_channels"],
            num_features=config["features"],
            expansion=config["expansion"],
            num_heads=config["num_heads"],
            kernel_sizes=(3, 9),
            dropout=0.1,
        ),
        stored,
        legacy.encoder_transformer,
    )
    previous = stored["prev_qk"] if case == "prev" else None
    ours = encoder(frames_first(stored["x"]), scores=previous)
    stream, maps, scores = stored[f"out_{case}"]
    close(frames_first(ours.stream), stream)
    close(frames_first(ours.maps), maps)
    close(ours.scores, scores)


@torch.no_grad()
@pytest.mark.parametrize("case", ["decoder", "decoder_first"])
def test_the_decoder_transformer_returns_the_original_maps_and_scores(case: str) -> None:
    stored = fixture("asym_modules")[case]
    config = stored["config"]
    decoder = block(
        FrameTransformerDecoder(
            in_channels=config["channels"],
            num_attention_maps=config["out_channels"],
            num_features=config["features"],
            expansion=config["expansion"],
            num_heads=config["num_heads"],
            kernel_sizes=(11, 7, 7),
            dropout=0.1,
            is_deepest=not config["has_prev_skip"],
        ),
        stored,
        legacy.decoder_transformer,
    )
    ours = decoder(
        frames_first(stored["x"]),
        skip=frames_first(stored["skip"]),
        skip_scores=stored["skip_qk"],
        previous_self_scores=stored.get("prev_qk1"),
        previous_skip_scores=stored.get("prev_qk2"),
    )
    stream, self_scores, skip_scores = stored["out"]
    close(frames_first(ours.stream), stream)
    close(ours.self_scores, self_scores)
    close(ours.skip_scores, skip_scores)


@torch.no_grad()
@pytest.mark.parametrize("case", ["noprev", "prev"])
def test_the_bridge_transformer_returns_the_original_maps_and_scores(case: str) -> None:
    stored = fixture("asym_modules")["conv_transformer"]
    bridge = block(
        ConvolutionalTransformerEncoder(
            num_channels=stored["config"]["channels"],
            num_heads=stored["config"]["num_heads"],
            dropout=0.1,
            restarts_residual=True,
        ),
        stored,
        legacy.bridge_transformer,
    )
    previous = stored["prev_qk"] if case == "prev" else None
    h, scores = bridge(frames_first(stored["x"]), scores=previous)
    expected, expected_scores = stored[f"out_{case}"]
    close(frames_first(h), expected)
    close(scores, expected_scores)


@torch.no_grad()
def test_the_embedding_and_its_sinusoids_are_the_original_ones() -> None:
    stored = fixture("asym_modules")["conv_embedding"]
    config = stored["config"]
    embedding = block(
        ConvolutionalEmbedding(
            in_channels=config["channels"],
            num_features=config["features"],
            widths=range(2, 17, 2),
            kernel_size=11,
        ),
        stored,
        legacy.embedding,
    )
    close(frames_first(embedding(frames_first(stored["x"]))), stored["out"])
    table = sinusoid_table(4096, config["features"], device=torch.device("cpu")).T
    corner, last = stored["pe_corner"], stored["pe_last"]
    close(table[: len(corner), : len(corner)], corner)
    close(table[-len(last) :, -len(last) :], last)

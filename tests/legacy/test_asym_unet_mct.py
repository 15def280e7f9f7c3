"""The original's numbers, from its own weights through the conversion."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.legacy import asym_unet_mct as legacy
from frametx.legacy import build
from frametx.legacy.layers import convolutional_embedding, res_block
from frametx.models.asym_unet_mct import AsymUNetMCT
from frametx.nn.convolutional_embedding import ConvolutionalEmbedding
from frametx.nn.convolutional_transformer_encoder import ConvolutionalTransformerEncoder
from frametx.nn.frame_transformer_decoder import FrameTransformerDecoder
from frametx.nn.frame_transformer_encoder import FrameTransformerEncoder
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention
from frametx.nn.residual_scores import ResidualScores
from frametx.nn.score_gate import ScoreGate
from frametx.nn.sinusoid import sinusoid_table

Fixture = Callable[[str], dict[str, Any]]


def close(ours: Tensor, theirs: Tensor, *, within: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=within)


def frames_first(x: Tensor) -> Tensor:
    return x.transpose(2, 3).contiguous()


def known(matrix: Tensor | None) -> ResidualScores | None:
    return None if matrix is None else ResidualScores(matrix[..., :1], matrix=matrix)


def block(
    module: nn.Module, stored: dict[str, Any], convert: Callable[[legacy.Weights], legacy.Weights]
) -> nn.Module:
    module.load_state_dict(convert(stored["state_dict"]))
    return module.eval()


@torch.no_grad()
def test_the_network_with_vocal_bands_returns_both_of_the_original_outputs(
    reference: Fixture,
) -> None:
    # one feature is left at the bridge and two above it, where norms amplify rounding
    stored = reference("asym_unet_mct_gen_vout")
    model = build(stored["state_dict"])
    assert isinstance(model, AsymUNetMCT)
    assert sum(p.numel() for p in model.parameters()) == stored["params"]
    logits, bands = model.forward_with_vocal_bands(stored["input"])
    expected_logits, expected_bands = stored["output"]
    assert bands is not None
    close(logits, expected_logits, within=5e-4)
    close(bands, expected_bands, within=5e-4)


@pytest.mark.parametrize("name", ["asym_unet_mct", "asym_unet_mct_gen_vout"])
def test_the_files_hyper_parameters_are_read_from_its_entries(
    name: str, reference: Fixture
) -> None:
    stored = reference(name)
    config, _ = legacy.convert(stored["state_dict"])
    asked = {key: value for key, value in stored["config"].items() if key != "max_bin"}
    assert asked == {key: config[key] for key in asked}
    assert config["widths"] == [1, 2, 4, 6, 8, 10, 12, 14, 16]
    assert config["embedding_widths"] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert config["encoder_kernel_sizes"] == [3, 9]
    assert config["decoder_kernel_sizes"] == [11, 7, 7]


def test_a_file_without_rotary_tables_needs_the_number_of_heads(reference: Fixture) -> None:
    old = reference("asym_unet_mct")["state_dict"]
    bare = {key: value for key, value in old.items() if not key.endswith("freqs")}
    with pytest.raises(ValueError, match="num_heads"):
        legacy.convert(bare)
    config, _ = legacy.convert(bare, num_heads=2)
    assert config["num_heads"] == 2


@torch.no_grad()
@pytest.mark.parametrize("case", ["noprev", "prev"])
def test_the_encoder_transformer_returns_the_original_maps_and_scores(
    case: str, reference: Fixture
) -> None:
    stored = reference("asym_modules")["encoder"]
    config = stored["config"]
    encoder = block(
        FrameTransformerEncoder(
            in_channels=config["channels"],
            num_attention_maps=config["out_channels"],
            num_features=config["features"],
            expansion=config["expansion"],
            attend=partial(MultichannelMultiheadAttention, num_heads=config["num_heads"]),
            kernel_sizes=(3, 9),
            dropout=0.1,
        ),
        stored,
        legacy.encoder_transformer,
    )
    previous = stored["prev_qk"] if case == "prev" else None
    ours = encoder(frames_first(stored["x"]), scores=known(previous))
    stream, maps, scores = stored[f"out_{case}"]
    close(frames_first(ours.stream), stream)
    close(frames_first(ours.maps), maps)
    close(ours.scores.materialised(), scores)


@torch.no_grad()
@pytest.mark.parametrize("case", ["decoder", "decoder_first"])
def test_the_decoder_transformer_returns_the_original_maps_and_scores(
    case: str, reference: Fixture
) -> None:
    stored = reference("asym_modules")[case]
    config = stored["config"]
    decoder = block(
        FrameTransformerDecoder(
            in_channels=config["channels"],
            num_attention_maps=config["out_channels"],
            num_features=config["features"],
            expansion=config["expansion"],
            attend=partial(MultichannelMultiheadAttention, num_heads=config["num_heads"]),
            make_gate=lambda **_: ScoreGate(num_channels=config["out_channels"]),
            gates_scores=True,
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
        skip_scores=known(stored["skip_qk"]),
        previous_self_scores=known(stored.get("prev_qk1")),
        previous_skip_scores=known(stored.get("prev_qk2")),
    )
    stream, self_scores, skip_scores = stored["out"]
    close(frames_first(ours.stream), stream)
    close(ours.self_scores.materialised(), self_scores)
    close(ours.skip_scores.materialised(), skip_scores)


@torch.no_grad()
@pytest.mark.parametrize("case", ["noprev", "prev"])
def test_the_bridge_transformer_returns_the_original_maps_and_scores(
    case: str, reference: Fixture
) -> None:
    stored = reference("asym_modules")["conv_transformer"]
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
    h, scores = bridge(frames_first(stored["x"]), scores=known(previous))
    expected, expected_scores = stored[f"out_{case}"]
    close(frames_first(h), expected)
    close(scores.materialised(), expected_scores)


@torch.no_grad()
def test_the_embedding_and_its_sinusoids_are_the_original_ones(reference: Fixture) -> None:
    stored = reference("asym_modules")["conv_embedding"]
    config = stored["config"]
    embedding = block(
        ConvolutionalEmbedding(
            in_channels=config["channels"],
            num_features=config["features"],
            widths=range(2, 17, 2),
            kernel_size=11,
        ),
        stored,
        convolutional_embedding(join=res_block()),
    )
    close(frames_first(embedding(frames_first(stored["x"]))), stored["out"])
    table = sinusoid_table(4096, config["features"], device=torch.device("cpu")).T
    corner, last = stored["pe_corner"], stored["pe_last"]
    close(table[: len(corner), : len(corner)], corner)
    close(table[-len(last) :, -len(last) :], last)

"""Bert: language models side by side, one for every map, that read frames instead of words.

    magnitude, positions -> embed -> map 1: BERT layer 1 -> BERT layer 2 -> ... -> out -> logits
                                     map 2: BERT layer 1 -> BERT layer 2 -> ...
                                     ...

Only `embed` and `out`, before and behind the encoders, let the maps see one another. A pyramid of
convolutions says where a frame stands. The encoders are those of the `transformers` package, so a
BERT that learned language can be put in: `pretrained`. The original learns only what surrounds it.

Inside, the layout is B C T F: C maps, F features of a frame, last.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import check_halving, features_last
from frametx.nn.block import Block
from frametx.nn.convolutional_embedding import ConvolutionalEmbedding
from frametx.nn.multichannel_attention import ScoreScale
from frametx.nn.multichannel_linear import MultichannelLinear
from frametx.nn.norm import MultichannelLayerNorm

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


class Bert(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask, for any number of frames.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps, each with an encoder of its own.
        encoder_features: features of a frame inside the encoders, BERT's hidden size. The original
            needs as many as there are bins.
        num_layers: of every encoder.
        num_heads: of every attention.
        expansion: hidden features of an encoder's feed-forward, in units of `encoder_features`.
        dropout: probability on both branches of every layer; in frozen encoders too.
        norm_eps: added to the variance in the encoders' norms. BERT learned with 1e-12; the
            original takes 1e-5.
        embedding_widths: maps of the embedding's levels below the first, as multiples of
            `in_channels`; every level halves bins and frames.
        embedding_kernel_size: of the convolutions that read the embedding's levels; odd.
        score_scale: scores are divided by the square root of all `features`, as in the original, or
            of one `head`'s, as BERT learned it.
        pretrained: folder that `save_pretrained` of a BERT wrote (config.json and weights). Its
            encoder is copied to every map, its word embeddings are left out. Nothing is ever
            downloaded. None draws the encoders at random.
        freezes_encoder: the encoders do not learn, only what surrounds them; so in the original.

    A checkpoint of ours holds the encoders' weights, so it must load where the folder is gone.
    Therefore a missing folder is no error yet when the network is built: it becomes one when the
    network is run before any weights were loaded into it.

    Attributes:
        num_bins: bins that `forward` takes and returns.

    Raises:
        ValueError: if the bins cannot be halved as often as the embedding has levels, the features
            cannot be split into the heads, the `transformers` package is missing, or the folder
            holds another kind or size of model; in `forward`, if the folder is missing.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
    Understanding", 2019.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        n_fft: int,
        channels: int,
        encoder_features: int,
        num_layers: int,
        num_heads: int,
        expansion: int,
        dropout: float,
        norm_eps: float,
        embedding_widths: Sequence[int],
        embedding_kernel_size: int,
        score_scale: ScoreScale,
        pretrained: str | None,
        freezes_encoder: bool,
    ) -> None:
        super().__init__()
        check_halving(n_fft, num_levels=1 + len(embedding_widths), name="embedding_widths")
        if encoder_features % num_heads:
            raise ValueError(
                f"{encoder_features} features cannot be split into {num_heads} heads of equal "
                "width: take another num_heads or encoder_features"
            )
        if score_scale not in ("features", "head"):
            raise ValueError(f"score_scale={score_scale} must be features or head")
        self.num_bins = n_fft // 2
        self.embedding = ConvolutionalEmbedding(
            in_channels=in_channels,
            num_features=self.num_bins,
            widths=embedding_widths,
            kernel_size=embedding_kernel_size,
            has_sinusoids=False,
            joins_by_block=False,
            norm=partial(MultichannelLayerNorm, eps=1e-5),
        )
        self.embed = MultichannelLinear(
            num_channels=in_channels + 1,
            in_features=self.num_bins,
            out_features=encoder_features,
            out_channels=channels,
            mix_channels=True,
        )
        config = _transformers().BertConfig(
            hidden_size=encoder_features,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=expansion * encoder_features,
            hidden_act="gelu",
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=0.0,
            layer_norm_eps=norm_eps,
            attn_implementation="sdpa",
        )
        scaled_features = encoder_features // (num_heads if score_scale == "head" else 1)
        self.layers = nn.ModuleList(
            ParallelBertLayers(config=config, num_channels=channels, scale=scaled_features**-0.5)
            for _ in range(num_layers)
        )
        self.out = MultichannelLinear(
            num_channels=channels,
            in_features=encoder_features,
            out_features=self.num_bins,
            out_channels=out_channels,
            mix_channels=True,
        )
        self.layers.requires_grad_(not freezes_encoder)
        self.missing_folder: Path | None = None
        if pretrained is not None:
            self._initialise(Path(pretrained), config)

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask."""
        if self.missing_folder is not None:
            raise ValueError(
                f"pretrained={self.missing_folder} is no folder: give one that save_pretrained "
                "wrote, or pretrained=null for encoders drawn at random"
            )
        x = features_last(magnitude, num_bins=self.num_bins)
        maps = self.embed(torch.cat([x, self.embedding(x)], 1)).unbind(1)
        for layer in self.layers:
            maps = layer(*maps)
        return self.out(torch.stack(maps, 1)).transpose(2, 3)

    def _initialise(self, folder: Path, config: Any) -> None:
        """Copy the encoder of a BERT on disk into every map, or remember that it is not there."""
        if not folder.is_dir():
            self.missing_folder = folder
            self.register_load_state_dict_post_hook(_forget_missing_folder)
            return
        for ours, theirs in zip(self.layers, _encoder_layers(folder, config), strict=True):
            assert isinstance(ours, ParallelBertLayers)
            for layer in ours.maps:
                layer.load_state_dict(theirs.state_dict())


class ParallelBertLayers(Block):
    """The same layer of every map's encoder: post-norm, attention between frames, feed-forward.

    Args:
        config: a `BertConfig`.
        num_channels: maps, each with weights of its own.
        scale: of the scores.
    """

    def __init__(self, *, config: Any, num_channels: int, scale: float) -> None:
        super().__init__()
        layers = [_transformers().BertLayer(config) for _ in range(num_channels)]
        for layer in layers:
            if not hasattr(layer.attention.self, "scaling"):
                raise ValueError(
                    "the installed transformers package is too old to choose the scale of its "
                    "attention: pip install --upgrade 'frametx[bert]'"
                )
            layer.attention.self.scaling = scale
        self.maps = nn.ModuleList(layers)

    def forward(self, *maps: Float[Tensor, "B T F"]) -> tuple[Float[Tensor, "B T F"], ...]:
        """Each map through its own layer; they stay apart, for nothing mixes them."""
        return tuple(layer(x) for layer, x in zip(self.maps, maps, strict=True))


def _transformers() -> Any:
    """The module of the `transformers` package; only this network needs it, and it loads slowly."""
    try:
        from transformers.models.bert import modeling_bert
    except ImportError as error:
        raise ValueError(
            "Bert needs the transformers package: pip install 'frametx[bert]'"
        ) from error
    return modeling_bert


def _encoder_layers(folder: Path, config: Any) -> nn.ModuleList:
    """The layers of a BERT on disk.

    Raises:
        ValueError: if it is another kind of model, has other sizes, or lacks weights.
    """
    bert = _transformers()
    try:
        stored = bert.BertConfig.from_pretrained(folder, local_files_only=True)
        if stored.model_type != "bert" or stored.hidden_act != config.hidden_act:
            raise ValueError(f"it is a {stored.model_type} with {stored.hidden_act}")
        differing = [
            f"{size} {getattr(stored, size)} instead of {getattr(config, size)}"
            for size in _SIZES
            if getattr(stored, size) != getattr(config, size)
        ]
        if differing:
            raise ValueError(", ".join(differing))
        with _quiet():
            model, info = bert.BertModel.from_pretrained(
                folder, local_files_only=True, add_pooling_layer=False, output_loading_info=True
            )
        missing = sorted(key for key in info["missing_keys"] if key.startswith("encoder."))
        if missing:
            raise ValueError(f"no weights for {', '.join(missing[:3])}")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"pretrained={folder} must hold a BERT of the network's sizes (encoder_features, "
            f"num_layers, num_heads, expansion): {error}"
        ) from error
    return model.encoder.layer


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the package's progress bar, and its report on the heads that are left out."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _forget_missing_folder(network: Any, _: Any) -> None:
    """Weights were loaded, so the folder is not needed."""
    network.missing_folder = None

"""Whole networks, one file each: magnitude B C F T in, logits B (S C) F T out."""

SPECTROGRAM_NETWORKS = (
    *("asym_unet_mct.AsymUNetMCT", "bert.Bert", "frame_transformer_v1.FrameTransformerV1"),
    *("jansson_unet.JanssonUNet", "mmdensenet.MMDenseNet", "open_unmix.OpenUnmix"),
    *("mask_refiner.MaskRefiner", "positionwise.Positionwise", "spleeter.Spleeter"),
    *("v10_temporal.V10Temporal", "v2b.V2b", "v3.V3", "v7.V7", "v8.V8", "v9_patch.V9Patch"),
)
"""Networks of a `SpectrogramSeparator`: a checkpoint may name these and no others."""
WAVEFORM_NETWORKS = (
    *("bs_roformer.BsRoformer", "htdemucs.BagOfHtdemucs", "htdemucs.Htdemucs"),
    *("mel_band_roformer.MelBandRoformer", "sepformer.SepFormer"),
)
"""Networks of a `WaveformSeparator`."""

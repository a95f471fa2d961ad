# SPDX-License-Identifier: Apache-2.0
"""The same features in batches on torchaudio.transforms, for training."""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor, nn

from features import tables
from features.config import FrontendConfig


class TorchFrontend(nn.Module):
    """samples (B, n) float in [-1, 1) -> features (B, n_frames, n_features), in torch's default dtype.

    Window, filterbank and DCT are those of `features.tables`. Made under float64 it equals the NumPy front-end within
    1e-5; in float32 a faint band beside a loud one is off by up to some 1e-4.
    """

    dct: Tensor

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        self.spectrogram = torchaudio.transforms.Spectrogram(
            n_fft=config.n_fft, win_length=config.frame_length, hop_length=config.hop_length,
            power=config.power, center=False,
        )  # fmt: skip
        self.mel_scale = torchaudio.transforms.MelScale(
            n_mels=config.n_mels, sample_rate=config.sample_rate, f_min=config.fmin, f_max=config.fmax,
            n_stft=config.n_bins, mel_scale=config.mel_scale,
        )  # fmt: skip
        self.spectrogram.window.copy_(torch.tensor(tables.window(config)))
        self.mel_scale.fb.copy_(torch.tensor(tables.mel_weights(config)))
        self.register_buffer("dct", torch.tensor(tables.dct(config), dtype=torch.get_default_dtype()), persistent=False)

    def forward(self, samples: Tensor) -> Tensor:
        if self.config.normalize == "peak":
            peak = samples.amax(dim=1, keepdim=True)
            samples = samples / torch.where(peak > 0, peak, torch.ones_like(peak))
        # torch centres the window in n_fft samples; with this padding frame i begins at sample i * hop_length again.
        surplus = self.config.n_fft - self.config.frame_length
        samples = nn.functional.pad(samples, (surplus // 2, surplus - surplus // 2))
        mel = self.mel_scale(self.spectrogram(samples)).transpose(1, 2)
        log_mel = torch.log(mel + self.config.log_floor) + self.config.log_offset
        return log_mel if self.config.kind == "mfb" else log_mel @ self.dct

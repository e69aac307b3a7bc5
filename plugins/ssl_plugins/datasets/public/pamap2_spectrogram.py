"""PAMAP2 as images, as in DABS 1.0: a spectrogram of each channel."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from ssl_core import Continuous, Dataset, Sample, Split, hookimpl
from ssl_plugins.datasets.public._pamap2 import CHANNELS, WindowDataset

WINDOW, N_FFT, HOP, SIDE = 1000, 63, 32, 32
MEAN = (
    -10.12912214, -11.29261799, 0.67638378, 0.81824769, 0.75297834, -0.35109685, 0.04085698, -0.38876906, -2.48238567,
    -3.41956712, -3.3872513, 1.36282383, 1.55308991, 1.56087922, -10.76128503, -10.35194776, -10.44513743,
    -10.37285293, -11.23690636, -0.20944169, 0.56012058, 0.807821, -1.45611818, -0.35643357, -0.25041446, -2.76965766,
    -3.24698013, -3.85922755, 1.1442057, 1.46386916, 1.51837609, -11.07261072, -11.14997687, -11.13951721,
    -11.12178224, -11.29449096, 1.94817929, 2.33591061, 1.97720141, 0.91686234, 1.53700002, 0.88543364, -1.64330728,
    -2.63160618, -2.51725697, 1.42671659, 1.6363767, 1.65463002, -10.68715032, -10.14333333, -10.40543887,
    -10.2161264,
)  # fmt: skip
STD = (
    7.52822918, 6.7065013, 3.95108152, 3.95592566, 3.42002526, 4.64231584, 4.44694546, 4.16510321, 3.71419447,
    3.21044202, 3.59042373, 3.39598192, 3.24402304, 3.26736989, 4.84615018, 4.85592083, 4.75026502, 5.0713948,
    6.76148597, 3.16121415, 4.10307909, 3.42466748, 3.91835069, 4.63133192, 4.12213119, 3.21565752, 3.00317751,
    3.04138402, 2.96988045, 3.30489875, 3.05622836, 4.66155384, 4.38560602, 4.45703007, 4.35220719, 6.72132295,
    4.49144193, 4.40899389, 3.80700876, 5.15785846, 4.82611255, 4.45424858, 3.65129909, 3.15463525, 3.965269,
    3.46149886, 3.22442971, 3.17674841, 4.71934308, 5.41595717, 4.97243856, 5.33158206,
)  # fmt: skip


class Pamap2Spectrogram(WindowDataset):
    """PAMAP2, spectrograms of 10 s of 52 channels, 52 x 32 x 32: 12 activities; subject 5 is the test."""

    name = "pamap2_spectrogram"
    modality = "multispectral"
    window = WINDOW

    class Options(WindowDataset.Options):
        """Options of PAMAP2 as spectrograms."""

        test_subjects: tuple[int, ...] = Field(
            (5,), description="subjects of the test split: 5, 6 or both; DABS uses 5"
        )

    def __init__(self, options: Options, split: Split) -> None:
        super().__init__(options, split)
        self.fields = {"image": Continuous((CHANNELS, SIDE, SIDE))}

    def __getitem__(self, index: int) -> Sample:
        """{"image": (52, 32 frequencies, 32 times) float32} and the activity."""
        return {"inputs": {"image": spectrogram(self.values(index))}, "label": int(self.labels[index])}


def spectrogram(series: np.ndarray) -> np.ndarray:
    """Log power spectrogram of (52, 1000) as (52, 32, 32), standardised per channel by DABS's constants.

    Hann windows of 63 steps are centred every 32 steps, with reflection padding, as in torchaudio.
    """
    hann = torch.hann_window(N_FFT)
    bins = torch.stft(torch.from_numpy(series), N_FFT, HOP, window=hann, center=True, return_complex=True)
    power = np.square(bins.abs().numpy())
    mean, std = (np.array(numbers, dtype=np.float32)[:, None, None] for numbers in (MEAN, STD))
    return (np.log(power + np.float32(1e-6)) - mean) / std


@hookimpl
def register_datasets() -> list[type[Dataset]]:
    return [Pamap2Spectrogram]

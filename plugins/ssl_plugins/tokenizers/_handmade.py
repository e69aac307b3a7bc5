"""Classical hand-made features of one sample, as a baseline beside learned ones (`Tokenizer.handmade`)."""

from __future__ import annotations

import itertools

import numpy as np

from ssl_core import ConfigError

BANDS = 16  # of a spectrum
COEFFICIENTS = 20  # mel-frequency cepstral coefficients
MOST_PAIRS = 64  # of channels whose correlation is a feature
MOST_COUNTS = 1024  # features of counts: k is as large as this allows
NGRAMS = (2, 4)
NGRAM_FEATURES = 2048
HISTOGRAM = 16
CELLS = 8  # cells of gradients along the shorter side of an image


def series_statistics(x: np.ndarray) -> np.ndarray:
    """Statistics and spectrum of each channel, and correlations of channels.

    Of a channel: mean, deviation, minimum, quartiles, maximum, mean absolute difference of successive steps, share of
    steps at which it crosses its mean, and the log power of its spectrum in 16 bands.

    Args:
        x: (channels, steps), finite.

    Returns:
        (channels * 25 + pairs,) float32, where pairs is at most 64.
    """
    x = x.astype(np.float64)
    mean, std = x.mean(axis=1), x.std(axis=1)
    centred = x - mean[:, None]
    steps = np.abs(np.diff(x, axis=1)).mean(axis=1) if x.shape[1] > 1 else np.zeros(len(x))
    crossings = (np.diff(np.signbit(centred), axis=1)).mean(axis=1) if x.shape[1] > 1 else np.zeros(len(x))
    statistics = [mean, std, *np.quantile(x, (0, 0.25, 0.5, 0.75, 1), axis=1), steps, crossings]
    pairs = list(itertools.combinations(range(len(x)), 2))[:MOST_PAIRS]
    scale = np.where(std > 0, std, 1)
    correlations = [(centred[i] * centred[j]).mean() / (scale[i] * scale[j]) for i, j in pairs]
    return np.concatenate([*statistics, _bands(centred).ravel(), correlations]).astype(np.float32)


def _bands(centred: np.ndarray) -> np.ndarray:
    """Log power of each channel (channels, steps) in `BANDS` bands of equal width, (channels, BANDS)."""
    power = np.square(np.abs(np.fft.rfft(centred, axis=1)))[:, 1:] / centred.shape[1]
    if power.shape[1] >= BANDS:
        bands = np.stack([part.mean(axis=1) for part in np.array_split(power, BANDS, axis=1)], axis=1)
    elif power.shape[1]:
        places = np.linspace(0, power.shape[1] - 1, BANDS)
        bands = np.stack([np.interp(places, np.arange(power.shape[1]), row) for row in power])
    else:
        bands = np.zeros((len(centred), BANDS))
    return np.log10(bands + 1e-12)


def mfcc_statistics(clip: np.ndarray, rate: float) -> np.ndarray:
    """Mean and deviation over time of 20 mel-frequency cepstral coefficients and of their differences, by librosa.

    clip: (samples,), finite. Returns (80,) float32.
    """
    import librosa

    n_fft = max(64, 2 ** int(np.ceil(np.log2(0.032 * rate))))
    clip = np.pad(clip.astype(np.float32), (0, max(0, n_fft - len(clip))))
    mfcc = librosa.feature.mfcc(y=clip, sr=rate, n_mfcc=COEFFICIENTS, n_fft=n_fft, hop_length=n_fft // 2, n_mels=40)
    change = np.diff(mfcc, axis=1) if mfcc.shape[1] > 1 else np.zeros_like(mfcc)
    return np.concatenate([part(x, axis=1) for x in (mfcc, change) for part in (np.mean, np.std)]).astype(np.float32)


def kmer_frequencies(ids: np.ndarray, vocab: int) -> np.ndarray:
    """Frequencies of the words of k letters in a sequence, k as large as 1,024 words allow.

    ids: (letters,) int, below `vocab`. Returns (vocab ** k,) float32.
    """
    k = 1
    while vocab ** (k + 1) <= MOST_COUNTS and k < 6:
        k += 1
    ids = ids.astype(np.int64)
    count = len(ids) - k + 1
    if count <= 0:
        return np.zeros(vocab**k, dtype=np.float32)
    words = sum(ids[i : i + count] * vocab ** (k - 1 - i) for i in range(k))
    return (np.bincount(words, minlength=vocab**k) / count).astype(np.float32)


def ngram_frequencies(texts: list[str]) -> np.ndarray:
    """Frequencies of 2 to 4 successive characters within words, hashed, by scikit-learn; (2048,) float32.

    The frequencies have the length 1 and are damped by a square root. A probe that standardises weighs rare ones up, as
    TF-IDF does.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=NGRAMS, n_features=NGRAM_FEATURES,
                                   alternate_sign=False, norm="l1")  # fmt: skip
    return np.sqrt(vectorizer.transform([" ".join(texts)]).toarray()[0]).astype(np.float32)


def image_statistics(image: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients, by scikit-image, and of the values of each channel.

    Args:
        image: (channels, H, W). Bytes have a histogram of 16 bins for each channel; other numbers mean, deviation and
            quantiles.

    Raises:
        ConfigError: scikit-image is not installed.
    """
    try:
        from skimage.feature import hog
    except ImportError:
        raise ConfigError(
            "evaluate.classical describes images by scikit-image, which is not installed: pip install 'sslx[classical]'"
        ) from None
    x = image.astype(np.float64)
    cell = max(1, min(x.shape[1:]) // CELLS)
    gradients = hog(x.mean(axis=0), orientations=8, pixels_per_cell=(cell, cell), cells_per_block=(1, 1))
    if image.dtype == np.uint8:
        values = [np.histogram(channel, HISTOGRAM, (0, 256))[0] / channel.size for channel in image]
    else:
        quantiles = np.quantile(x, np.linspace(0, 1, HISTOGRAM - 2), axis=(1, 2)).T
        values = [np.array([c.mean(), c.std(), *q]) for c, q in zip(x, quantiles, strict=True)]
    return np.concatenate([gradients, *values]).astype(np.float32)


def one_hot_columns(ids: np.ndarray, vocab: int) -> np.ndarray:
    """Categories of a row, (columns,), one-hot where that is at most 1,024 numbers, else as they are."""
    if len(ids) * vocab > MOST_COUNTS:
        return ids.astype(np.float32)
    return np.eye(vocab, dtype=np.float32)[ids].ravel()

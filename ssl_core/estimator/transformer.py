"""`SelfSupervisedEncoder`: an encoder that is trained without labels, as a transformer of scikit-learn."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ssl_core import plugins as installed
from ssl_core.config.resolve import flatten
from ssl_core.errors import ConfigError, SslxError
from ssl_core.estimator.tables import TableColumns
from ssl_core.estimator.training import train_encoder
from ssl_core.runs.encoder import EMBED_BATCH, PretrainedEncoder
from ssl_core.runs.saved import load_encoder, save_encoder
from ssl_core.training.device import pick_device
from ssl_core.utils.console import Console

BY_AXES = {2: "tabular", 3: "time-series", 4: "image"}
"""The modality of an array with so many axes, with modality="auto"."""
EPOCHS, MIN_STEPS, MAX_STEPS = 20, 20, 1000
"""steps="auto": so many passes over the samples, within these limits."""
WARMUP_STEPS = 50
FILES = "encoder_files"
"""The entry of a pickled estimator that holds the files of the saved encoder, by path in its folder."""


class EstimatorError(SslxError, ValueError):
    """A parameter or data that `SelfSupervisedEncoder` cannot use."""


def _one_feature(shape: tuple[int, ...]) -> str:
    return (
        f"Found array with {shape[1]} feature(s) (shape={shape}) while a minimum of 2 is required: one is learned from "
        f"the others"
    )


class SelfSupervisedEncoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Features learned without labels, as a scikit-learn transformer.

    `fit` trains a tokenizer and a transformer encoder by a self-supervised objective, `transform` returns the encoder's
    features. It takes

    - tables: arrays (n, columns), in which NaN is a missing value, and DataFrames of numbers and categories. A category
      that was not seen in `fit` counts as missing;
    - series: arrays (n, channels, steps), or (n, steps) with modality="time-series";
    - images: arrays (n, channels, H, W);
    - flat arrays (n, features) of any of these, with `sample_shape`;
    - sequences of texts, with a modality that reads them.

    Training writes to a temporary folder, which is removed, and leaves torch's random generators as they are. The same
    `random_state` gives the same encoder on the same machine. Threads train one after the other, processes in parallel.
    A pickled estimator holds safetensors and JSON, and no pickled module.

    Args:
        objective: what to learn by; see `sslx list objectives`.
        modality: the kind of data; "auto" takes arrays with two axes and DataFrames as tables, with three as series,
            with four as images.
        steps: optimiser steps; "auto" is 20 passes over the samples, at least 20 and at most 1,000 steps.
        batch_size: samples in a step.
        dim: width of the encoder.
        depth: number of its blocks.
        heads: attention heads of a block.
        lr: learning rate.
        layers: numbers of encoder layers from 1, whose features are returned side by side; None for the output.
        sample_shape: the shape of a sample, such as (1, 8, 8), that rows of a flat array are reshaped to.
        options: further options of a run by dotted path or by section, as in `sslx.pretrain`, over all others.
        random_state: seed of all randomness.
        device: auto, cpu, cuda or cuda:N.
        verbose: print what is trained on if it is not 0.

    Attributes:
        encoder_: the trained `PretrainedEncoder`.
        modality_: the modality that was taken.
        loss_curve_: mean losses between two lines of the log, in order; of more than 4,096 lines every n-th.
        n_steps_: optimiser steps done.
        columns_: kinds and categories of the columns of a table; None for other data.
        n_features_in_: size of the second axis of the data.
        feature_names_in_: names of the columns, if all are strings.
    """

    def __init__(
        self,
        objective: str = "metamae",
        *,
        modality: str = "auto",
        steps: int | str = "auto",
        batch_size: int = 64,
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        lr: float = 1e-3,
        layers: Sequence[int] | None = None,
        sample_shape: Sequence[int] | None = None,
        options: Mapping[str, Any] | None = None,
        random_state: Any = None,
        device: str = "auto",
        verbose: int = 0,
    ) -> None:
        self.objective = objective
        self.modality = modality
        self.steps = steps
        self.batch_size = batch_size
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.lr = lr
        self.layers = layers
        self.sample_shape = sample_shape
        self.options = options
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    # --- fit and transform -------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> SelfSupervisedEncoder:  # noqa: N803
        """Train the encoder.

        Args:
            X: n samples, see the class.
            y: not used.

        Returns:
            The estimator.

        Raises:
            ValueError: a parameter, or data that cannot be used.
        """
        self.__dict__.pop("encoder_", None)  # if this call fails, the estimator is not fitted
        self.columns_: TableColumns | None = None
        with as_value_errors():
            x = self._validated(X, reset=True)
            samples, vocabularies = x, {}
            if self.modality_ == "tabular":
                self.columns_ = TableColumns.fit(x)
                samples, vocabularies = self.columns_.encode(x), self.columns_.vocabularies()
            options = self._run_options(_count(x), samples)
            console = _Printer() if self.verbose else Console()
            trained = train_encoder(samples, self.modality_, options, vocabularies, None, console)
        self.encoder_, self.loss_curve_, self.n_steps_ = trained.encoder, trained.losses, trained.steps
        for line in trained.doubts:
            warnings.warn(line, UserWarning, stacklevel=2)
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Features of samples.

        Args:
            X: n samples of the form that the encoder was fitted on.

        Returns:
            float32 features (n, D), or (n, D x number of `layers`).

        Raises:
            NotFittedError: the encoder is not fitted.
            ValueError: samples that cannot be used.
        """
        check_is_fitted(self, "encoder_")
        with as_value_errors():
            x = self._validated(X, reset=False)
            samples = x if self.columns_ is None else self.columns_.encode(x)
            features: np.ndarray = self.encoder_.embed(samples, layers=self.layers, batch_size=EMBED_BATCH)
        return features

    @property
    def _n_features_out(self) -> int:
        """Width of the features, for their names."""
        return self.encoder_.dim * (1 if self.layers is None else len(self.layers))

    # --- validation --------------------------------------------------------------------------------------------------

    def _validated(self, x: Any, reset: bool) -> Any:
        """The samples: a DataFrame, a float array, or a list of texts. Sets the attributes of the form with `reset`."""
        if self.modality != "auto" and _is_texts(x):
            if self.modality == "tabular":
                raise EstimatorError("X is a list of texts, and a table has rows of columns; give a DataFrame")
            return self._validated_texts(x, reset)
        if _is_texts(x) and reset:
            try:
                float(next(iter(x)))
            except ValueError:
                raise EstimatorError(
                    "X holds texts; name their modality, as modality='text', 'genomics' or 'protein'"
                ) from None
        if hasattr(x, "to_pandas") and hasattr(x, "columns"):  # polars, Arrow
            x = x.to_pandas()
        is_frame = hasattr(x, "iloc") and hasattr(x, "columns")
        if is_frame and self.modality in ("auto", "tabular") and self.sample_shape is None:
            return self._validated_frame(x, reset)
        if not reset and self.columns_ is not None and self.columns_.categories:
            validate_data(self, x, reset=False, skip_check_array=True)
            return np.asarray(x)  # a table with categories as an array of objects
        modality = self.modality if reset else self.modality_
        x = validate_data(
            self, x, reset=reset, dtype=(np.float64, np.float32, np.uint8), ensure_all_finite="allow-nan",
            allow_nd=True, ensure_min_samples=2 if reset else 1,
        )  # fmt: skip
        if modality in ("auto", "tabular") and x.ndim == 2 and x.shape[1] < 2:
            raise EstimatorError(_one_feature(x.shape))
        if self.sample_shape is not None:
            x = self._reshaped(x)
        if reset:
            self._set_modality(x)
            self._sample_shape = x.shape[1:]
        elif x.shape[1:] != self._sample_shape:
            raise EstimatorError(
                f"X has samples of shape {x.shape[1:]}, the encoder was fitted on {self._sample_shape}"
            )
        return x

    def _validated_frame(self, x: Any, reset: bool) -> Any:
        validate_data(self, x, reset=reset, skip_check_array=True)
        least = 2 if reset else 1
        if len(x) < least:
            raise EstimatorError(f"Found array with {len(x)} sample(s) while a minimum of {least} is required")
        if reset:
            if x.shape[1] < 2:
                raise EstimatorError(_one_feature(x.shape))
            self.modality_, self._sample_shape = "tabular", (x.shape[1],)
        elif self.columns_ is not None and not self.columns_.categories:
            return np.stack([_numbers_of(x.iloc[:, place], name) for place, name in enumerate(x.columns)], axis=1)
        return x

    def _validated_texts(self, x: Any, reset: bool) -> list[str]:
        if reset:
            self._set_modality(None)
        texts = list(x)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise EstimatorError(f"X holds {text!r} at {number}, which is no text; drop such samples")
        if reset and len(texts) < 2:
            raise EstimatorError("X holds 1 sample, and a minimum of 2 is required")
        return texts

    def _reshaped(self, x: np.ndarray) -> np.ndarray:
        shape = tuple(self.sample_shape or ())
        if x.shape[1:] != shape and int(np.prod(x.shape[1:])) != int(np.prod(shape)):
            raise EstimatorError(
                f"sample_shape={shape} is of {int(np.prod(shape))} numbers, and the samples of X have "
                f"{int(np.prod(x.shape[1:]))}"
            )
        return x.reshape(len(x), *shape)

    def _set_modality(self, x: np.ndarray | None) -> None:
        if self.modality != "auto":
            installed.load().tokenizer(self.modality)  # refuses an unknown name
            self.modality_ = self.modality
            return
        axes = x.ndim if x is not None else 1
        if axes not in BY_AXES:
            raise EstimatorError(f"X has {axes} axes; name its modality, as modality='image'")
        self.modality_ = BY_AXES[axes]

    def _run_options(self, count: int, samples: Any) -> dict[str, Any]:
        """The options of the run, by dotted path."""
        steps = self.steps
        if steps == "auto":
            per_epoch = -(-count // max(1, min(self.batch_size, count)))
            steps = min(MAX_STEPS, max(MIN_STEPS, EPOCHS * per_epoch))
        if isinstance(steps, str | bool) or not isinstance(steps, int | np.integer):
            raise EstimatorError(f"steps={self.steps!r}: give a whole number, or 'auto'")
        random = check_random_state(self.random_state)
        values: dict[str, Any] = {
            "objective.name": self.objective, "preset": "small", "encoder.dim": self.dim, "encoder.depth": self.depth,
            "encoder.heads": self.heads, "train.lr": self.lr, "train.steps": int(steps),
            "train.warmup_steps": min(WARMUP_STEPS, int(steps) // 5), "train.batch_size": self.batch_size,
            "train.compile": "off", "train.keep_freed_memory": False, "train.checkpoint_every": max(1, int(steps)),
            "seed": int(random.randint(np.iinfo(np.int32).max)), "device": self.device,
        }  # fmt: skip
        if isinstance(samples, Mapping) and not np.isnan(samples.get("numeric", 0)).any():
            values["tokenizer.missing"] = "absent"  # `transform` may see missing numbers
        return values | flatten(self.options or {})

    # --- conventions of scikit-learn ---------------------------------------------------------------------------------

    def __sklearn_tags__(self) -> Any:
        """What the estimator takes and returns."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The parameters and attributes, the encoder as the files of its folder."""
        state = dict(super().__getstate__())
        encoder: PretrainedEncoder | None = state.pop("encoder_", None)
        if encoder is not None:
            with tempfile.TemporaryDirectory(prefix="sslx-") as name:
                folder = save_encoder(encoder, Path(name) / "encoder")
                files = sorted(path for path in folder.rglob("*") if path.is_file())
                state[FILES] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The estimator from its state; the encoder is loaded on `device`, or on the CPU if that is not here."""
        state = dict(state)
        files = state.pop(FILES, None)
        super().__setstate__(state)
        if files is None:
            return
        with tempfile.TemporaryDirectory(prefix="sslx-") as name:
            for part, content in files.items():
                path = Path(name) / part
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            encoder = load_encoder(Path(name), installed.load())
        try:
            device = pick_device(self.device)
        except ConfigError:
            device = pick_device("cpu")
        self.encoder_ = encoder.to(device).eval()


class _Printer(Console):
    """Prints lines."""

    def info(self, text: str) -> None:
        print(f"[SelfSupervisedEncoder] {text}")


@contextmanager
def as_value_errors() -> Iterator[None]:
    """Errors of sslx as errors that scikit-learn's users expect.

    Raises:
        EstimatorError: an SslxError was raised.
    """
    try:
        yield
    except EstimatorError:
        raise
    except SslxError as error:
        raise EstimatorError(str(error)) from error


def _is_texts(x: Any) -> bool:
    """Whether samples are texts: a sequence, Series or array with one axis whose first entry is one."""
    if hasattr(x, "columns") or not hasattr(x, "__len__") or isinstance(x, str) or not len(x):
        return False
    if getattr(x, "ndim", 1) != 1:
        return False
    first = x.iloc[0] if hasattr(x, "iloc") else x[0] if hasattr(x, "__getitem__") else None
    return isinstance(first, str)


def _numbers_of(column: Any, name: Any) -> np.ndarray:
    """A column of a DataFrame as float64, NaN where missing."""
    try:
        numbers: np.ndarray = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise EstimatorError(
            f"column '{name}' holds other values than numbers, on which the encoder was fitted"
        ) from None
    return numbers


def _count(x: Any) -> int:
    return int(x.shape[0]) if hasattr(x, "shape") else len(x)

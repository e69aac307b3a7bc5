"""The encoder as a transformer of scikit-learn."""

from ssl_core.estimator.transformer import SelfSupervisedEncoder

__all__ = ["SelfSupervisedEncoder"]

"""The offline job: featurize a sample of the pictures, fit StandardScaler and PCA, save the model."""

from conf import __version__

__all__ = ["__version__"]

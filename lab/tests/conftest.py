"""What the tests of the lab share with those of the package."""

from shared_fixtures import keras_ready, shared, tiny_data, tiny_model

__all__ = ["keras_ready", "shared", "tiny_data", "tiny_model"]

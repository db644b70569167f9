"""Readers of the SavedModel format, without TensorFlow."""

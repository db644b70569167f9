"""The SavedModel engine: TensorFlow by its C API."""

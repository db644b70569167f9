"""Tensors: datatypes, JSON, pictures, tf.Example."""

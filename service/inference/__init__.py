"""Running predictions: infer, batches, deadlines, health."""

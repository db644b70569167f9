"""A version on disk: SavedModel, twin, proofs and model card, published in one rename."""

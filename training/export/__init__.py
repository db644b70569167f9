"""Export: SavedModel, twin, their proofs and the model card, published as a version by one rename."""

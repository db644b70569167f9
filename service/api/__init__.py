"""The protocols: each view decodes, infers, encodes, and nothing else."""

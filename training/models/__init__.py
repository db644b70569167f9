"""The models, one file each: configuration, network, fit and run, from top to bottom."""

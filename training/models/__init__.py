"""The four models that ship: configuration, network, fit and run of each."""

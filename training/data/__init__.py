"""Data sets, checked and as arrays; pictures altered; samples."""

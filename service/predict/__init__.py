"""`python -m service predict`: asks a model from the command line."""

"""What the page asks for beyond the protocols."""

"""What worker processes share: memory that the first process makes before it forks them, and no file."""

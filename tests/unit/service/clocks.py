class FakeClock:
    """`now`: in seconds."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

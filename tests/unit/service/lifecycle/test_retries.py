from service.lifecycle.loader import MAX_RETRY_SECONDS, Retries

KEY = ("model", 1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pauses_double_up_to_the_longest() -> None:
    retries = Retries(clock := Clock())
    pauses = []
    for _ in range(12):
        retries.failed(KEY, 7, "broken")
        failed = clock.now
        while not retries.is_due(KEY, 7):
            clock.now += 1.0
        pauses.append(clock.now - failed)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert MAX_RETRY_SECONDS == 300


def test_what_is_left_alone_is_due_once_its_files_change_or_it_is_forgotten() -> None:
    retries = Retries(clock := Clock())
    retries.never_retry(KEY, 7)
    clock.now = 1e12
    assert (retries.is_due(KEY, 7), retries.is_due(KEY, 8)) == (False, True)
    retries.forget(KEY)
    assert retries.is_due(KEY, 7)


def test_changed_files_are_tried_at_once_and_begin_anew() -> None:
    retries = Retries(Clock())
    retries.failed(KEY, 7, "broken")
    retries.failed(KEY, 7, "broken")
    assert not retries.is_due(KEY, 7)
    assert retries.is_due(KEY, 8)
    assert retries.failed(KEY, 8, "broken").startswith("broken (tried once; next at ")


def test_the_reason_says_how_often_and_when_next() -> None:
    retries = Retries(Clock())
    retries.failed(KEY, 7, "broken")
    reason = retries.failed(KEY, 7, "no memory")
    assert reason.startswith("no memory (tried 2 times; next at ")
    assert reason.endswith(" UTC, or when its files change)")


def test_what_never_failed_or_is_forgotten_is_due() -> None:
    retries = Retries(Clock())
    assert retries.is_due(KEY, 7)
    retries.failed(KEY, 7, "broken")
    retries.forget(KEY)
    assert retries.is_due(KEY, 7)
    retries.forget(KEY)

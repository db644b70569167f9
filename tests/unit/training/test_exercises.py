from training.exercises import EXERCISES, Config


def test_all_exercises_are_chosen_unless_some_are_named() -> None:
    assert Config().chosen == EXERCISES
    assert [each.name for each in Config(only="two-convolutions,units-512").chosen] == ["units-512", "two-convolutions"]

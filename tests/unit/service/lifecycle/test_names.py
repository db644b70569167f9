import pytest

from service.lifecycle.repository import model_name_fault, version_number


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("7", 7), ("0007", 7), ("9223372036854775807", 2**63 - 1), ("0" * 300 + "12", 12)],
)
def test_digits_are_the_version_that_they_write(text: str, number: int) -> None:
    assert version_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1 ", "1_0", "1e3", "0x1", "٣", "²", "9223372036854775808", "9" * 5000]
)
def test_what_is_no_number_of_int64_is_no_version(text: str) -> None:
    assert version_number(text) is None


@pytest.mark.parametrize(
    "name",
    ["stats", "config", "100%", "a%2Fb", " ", "no\u00a0break", "größe", "日本", "می\u200cخواهم", 'quo"te', "a\\b"],
)
def test_any_name_that_a_path_can_hold_may_be_a_models(name: str) -> None:
    assert model_name_fault(name) is None


@pytest.mark.parametrize("name", [".1", "a:b", "line\nbreak", "null\0", "\udcff", "\u202eback", "\u2028"])
def test_a_name_that_a_path_or_the_log_cannot_hold_is_no_models(name: str) -> None:
    assert model_name_fault(name) is not None

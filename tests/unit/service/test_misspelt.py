from dataclasses import fields

import pytest

from service.settings import Settings, unknown_variables, variable

KNOWN = [variable(spec) for spec in fields(Settings)]


def told(**environ: str) -> list[str]:
    return list(unknown_variables(environ, KNOWN))


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("SERVING_PROT", "SERVING_PORT"),
        ("SERVING_WORKER", "SERVING_WORKERS"),
        ("SERVING_MODEL", "SERVING_MODELS"),
        ("SERVING_MAX_BATCHSIZE", "SERVING_MAX_BATCH_SIZE"),
        ("SERVING_APIKEYS_FILE", "SERVING_API_KEYS_FILE"),
        ("serving_port", "SERVING_PORT"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_nearest_name(name: str, nearest: str) -> None:
    assert told(**{name: "1"}) == [
        f"the variable {name!r} is passed over, for no setting is called so; is {nearest} meant?"
    ]


def test_a_variable_that_is_near_no_setting_is_told_too() -> None:
    assert told(SERVING_ZZZ="1") == [
        "the variable 'SERVING_ZZZ' is passed over, for no setting is called so; docs/settings.md lists them"
    ]


def test_settings_and_the_variables_of_others_are_not_spoken_of() -> None:
    assert told(**dict.fromkeys(KNOWN, "1"), MODEL_NAME="x", PATH="/bin", OBSERVING_PORT="1") == []


@pytest.mark.parametrize("service", ["SERVING", "SERVING_BLUE", "SERVING_2"])
def test_what_kubernetes_sets_for_a_service_called_serving_is_not_spoken_of(service: str) -> None:
    address = "tcp://10.0.0.1:8501"
    assert (
        told(
            **{
                f"{service}_SERVICE_HOST": "10.0.0.1",
                f"{service}_SERVICE_PORT": "8501",
                f"{service}_SERVICE_PORT_HTTP": "8501",
                f"{service}_PORT": address,
                f"{service}_PORT_8501_TCP": address,
                f"{service}_PORT_8501_TCP_PROTO": "tcp",
                f"{service}_PORT_8501_TCP_PORT": "8501",
                f"{service}_PORT_8501_TCP_ADDR": "10.0.0.1",
            }
        )
        == []
    )

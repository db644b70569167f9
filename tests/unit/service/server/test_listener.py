import socket
from pathlib import Path

import pytest

from service.server.listener import bound_socket


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        pytest.param(
            "::1",
            marks=pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6"),
        ),
    ],
)
def test_worker_processes_listen_side_by_side_each_when_it_is_ready(host: str) -> None:
    with bound_socket(host, 0) as first, bound_socket(host, port := first.getsockname()[1]) as second:
        with socket.socket(first.family) as client:
            assert client.connect_ex((host, port)) != 0
        second.listen()
        for _ in range(10):
            with socket.create_connection((host, port)):
                second.accept()[0].close()
        first.listen()


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        bound_socket("192.0.2.1", 8501)

"""Keys, limits and ports of a real service with two worker processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.security.api_keys import new_key
from tests.integration.models import VERSION_1, publish
from tests.integration.server import PREDICT, TEN, Server, free_port, running, workers

Headers = dict[str, str]


class KeyFile:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.tables: dict[str, str] = {}

    def add(self, name: str, scope: str, **more: str) -> Headers:
        """The headers of a new key, which is in the file."""
        key, digest = new_key()
        values = {"sha256": digest, "scope": scope, **more}
        self.tables[name] = f"[keys.{name}]\n" + "".join(f'{key} = "{value}"\n' for key, value in values.items())
        self.write("".join(self.tables.values()))
        return {"Authorization": f"Bearer {key}"}

    def remove(self, name: str) -> None:
        self.tables.pop(name, None)
        self.write("".join(self.tables.values()))

    def write(self, text: str) -> None:
        (draft := self.path.with_suffix(".draft")).write_text(text)
        draft.rename(self.path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(tmp_path_factory.mktemp("keys") / "keys.toml")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, keys: KeyFile) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("security")
    publish(VERSION_1, folder / "models" / "regression" / "1")
    keys.add("first", "admin")
    settings = {"workers": 2, "admin": 1, "operations_port": free_port()}
    with running(folder / "models", folder / "log", api_keys_file=keys.path, **settings) as started:
        yield started


def wait_for_statuses(server: Server, headers: Headers, status: int) -> None:
    """Of any worker."""
    server.wait_for(lambda: server.statuses(headers=headers) == {status}, f"the key does not get {status} everywhere")


@pytest.fixture
def alice(server: Server, keys: KeyFile) -> Iterator[Headers]:
    headers = keys.add("alice", "predict")
    wait_for_statuses(server, headers, 200)
    yield headers
    keys.remove("alice")


def test_keys_and_ports_are_those_of_every_worker_also_when_the_file_changes(
    server: Server, keys: KeyFile, alice: Headers
) -> None:
    assert server.statuses() == {401}
    unload = "/v2/repository/models/regression/unload"
    assert server.request(unload, b"", headers=alice).status == 403
    for slashes in ("//", "/%2f"):
        assert server.request(f"{slashes}{unload[1:]}", b"", headers=alice).status == 400

    bob = keys.add("bob", "admin")
    wait_for_statuses(server, bob, 200)
    assert server.request(unload, b"", headers=bob).status == 200
    assert server.request("/v2/repository/models/regression/load", b"", headers=bob).status == 200
    keys.remove("alice")
    wait_for_statuses(server, alice, 401)
    assert server.statuses(headers=bob) == {200}

    assert server.request("/metrics", headers=bob).status == 404
    assert server.request("//metrics", headers=bob).status == 400
    assert server.request("/v1/models", headers=bob, port=server.operations_port).status == 404
    page = server.request("/metrics", port=server.operations_port).body.decode()
    assert 'serving_rejected_total{reason="forbidden"} 1.0' in page
    assert "serving_api_keys_valid 1.0" in page
    assert "serving_workers 2.0" in page
    assert not {name for name in ("alice", "bob") if name in page}


def test_worker_that_begins_while_the_file_is_bad_takes_the_keys_of_the_others(
    server: Server, keys: KeyFile, alice: Headers
) -> None:
    keys.write("[keys]\n")
    server.wait_for(lambda: server.sample("serving_api_keys_valid") == 0, "the bad file is not noticed")
    workers(server)[0].kill()
    server.wait_until_all_workers_answer(2)
    assert server.sample("serving_workers") == 2
    assert server.statuses(headers=alice) == {200}
    server.wait_until_logged("; the previous keys stay valid")
    keys.remove("nobody")
    server.wait_for(lambda: server.sample("serving_api_keys_valid") == 1, "the good file is not noticed")


def test_rate_limit_is_kept_by_all_workers_together(server: Server, keys: KeyFile) -> None:
    carol = keys.add("carol", "predict", rate_limit="30/hour")
    server.wait_for(lambda: server.request(PREDICT, TEN, headers=carol).status == 200, "the new key does not count")
    # Each on a connection of its own, which go to either worker. One that did not know the key yet answered 401.
    answers = [server.request(PREDICT, TEN, headers=carol).status for _ in range(100)]
    assert answers.count(200) == 29
    assert set(answers[-50:]) == {429}
    assert server.sample('serving_rejected_total{reason="rate_limited"}') == answers.count(429)

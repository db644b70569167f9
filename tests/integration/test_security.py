"""Keys and ports of a real service with two worker processes."""

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.security.api_keys import new_key
from tests.integration.conftest import SHIPPED
from tests.integration.server import DEADLINE_SECONDS, Server, free_port, running, workers

PREDICT = "/v1/models/regression:predict"
BODY = {"instances": [10.0]}


class KeyFile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, name: str, scope: str) -> dict[str, str]:
        """The headers of a new key, which is in the file."""
        key, digest = new_key()
        before = self.path.read_text() if self.path.exists() else ""
        self._write(f'{before}\n[keys.{name}]\nsha256 = "{digest}"\nscope = "{scope}"\n')
        return {"Authorization": f"Bearer {key}"}

    def remove(self, name: str) -> None:
        tables = self.path.read_text().split("\n[")
        self._write("\n[".join(table for table in tables if not table.startswith(f"keys.{name}]")))

    def _write(self, text: str) -> None:
        (draft := self.path.with_suffix(".draft")).write_text(text)
        draft.rename(self.path)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.toml")


@pytest.fixture
def alice(keys: KeyFile) -> dict[str, str]:
    return keys.add("alice", "predict")


@pytest.fixture
def server(tmp_path: Path, keys: KeyFile, alice: dict[str, str]) -> Iterator[Server]:
    settings = {"model_name": "regression", "workers": 2, "admin": 1, "operations_port": free_port()}
    with running(SHIPPED, tmp_path / "service.log", api_keys_file=keys.path, **settings) as started:
        yield started


def statuses(server: Server, headers: dict[str, str]) -> set[int]:
    """Of many requests, each on a connection of its own: any worker may answer."""
    return {server.request(PREDICT, BODY, headers=headers).status for _ in range(20)}


def test_keys_and_ports_are_kept_by_every_worker_also_when_the_file_changes(
    server: Server, keys: KeyFile, alice: dict[str, str]
) -> None:
    assert statuses(server, alice) == {200}
    assert statuses(server, {}) == {401}
    assert server.request("/v2/repository/models/regression/unload", b"", headers=alice).status == 403
    for slashes in ("//", "/%2f"):
        assert server.request(f"{slashes}v2/repository/models/regression/unload", b"", headers=alice).status == 400

    bob = keys.add("bob", "admin")
    server.wait_for(lambda: statuses(server, bob) == {200}, "the new key counts everywhere")
    assert server.request("/v2/repository/models/regression/unload", b"", headers=bob).status == 200
    assert server.request("/v2/repository/models/regression/load", b"", headers=bob).status == 200
    keys.remove("alice")
    server.wait_for(lambda: statuses(server, alice) == {401}, "the key that was taken away counts nowhere")
    assert statuses(server, bob) == {200}

    assert server.request("/metrics", headers=bob).status == 404
    assert server.request("//metrics", headers=bob).status == 400
    assert server.request("/v1/models", headers=bob, port=server.operations_port).status == 404
    page = server.request("/metrics", port=server.operations_port).body.decode()
    assert 'serving_rejected_total{reason="forbidden"} 1.0' in page
    assert "serving_api_keys_valid 1.0" in page
    assert "serving_workers 2.0" in page
    for table in ("alice", "bob"):
        assert table not in page


def test_a_worker_that_is_replaced_while_the_file_is_bad_takes_the_keys_that_the_others_take(
    server: Server, keys: KeyFile, alice: dict[str, str]
) -> None:
    def says(line: str) -> bool:
        return line in server.request("/metrics", port=server.operations_port).body.decode()

    keys.path.write_text("[keys]\n")
    server.wait_for(lambda: says("serving_api_keys_valid 0.0"), "the bad file is noticed")
    workers(server)[0].kill()
    server.wait_until_all_workers_answer(2)
    assert says("serving_workers 2.0")
    assert statuses(server, alice) == {200}
    server.wait_until_logged("; the previous keys stay valid")


def test_a_rate_limit_is_kept_by_all_workers_together(tmp_path: Path, keys: KeyFile, alice: dict[str, str]) -> None:
    settings = {"model_name": "regression", "workers": 2, "rate_limit": "30/hour", "api_keys_file": keys.path}
    with running(SHIPPED, tmp_path / "service.log", **settings) as server:
        # Each on a connection of its own, which go to either worker.
        answers = [server.request(PREDICT, BODY, headers=alice).status for _ in range(100)]
        page = server.request("/metrics").body.decode()
    assert sorted(answers) == [200] * 30 + [429] * 70
    assert 'serving_rejected_total{reason="rate_limited"} 70.0' in page


def test_a_page_of_a_listed_origin_asks_first_without_a_key_and_then_with_it(
    tmp_path: Path, keys: KeyFile, alice: dict[str, str]
) -> None:
    origin = "https://app.example"
    settings = {"model_name": "regression", "cors_origins": origin, "api_keys_file": keys.path}
    operations_port = free_port()
    with running(SHIPPED, tmp_path / "service.log", operations_port=operations_port, **settings) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_SECONDS)
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        connection.request("OPTIONS", PREDICT, headers={"Origin": origin, **asks})
        preflight = connection.getresponse()
        preflight.read()
        assert preflight.status == 200
        assert preflight.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
        for headers, status in (({}, 401), (alice, 200)):
            answer = server.request(PREDICT, BODY, headers={"Origin": origin, **headers})
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, origin)
        # What operators ask is for nobody's page.
        answer = server.request("/metrics", headers={"Origin": origin}, port=operations_port)
        assert "access-control-allow-origin" not in answer.headers
        connection.close()

"""Options and addresses that cannot work are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from kombu import Connection

import tasks_demo.transport
from tasks_demo.core.exceptions import InvalidSetting
from tasks_demo.transport.address import scheme_of, tcp_parameters
from tasks_demo.transport.options import Options
from tasks_demo.transport.owner import Owner, new_owner, owner_of, token_prefix

assert tasks_demo.transport.ALIAS == "reliable"


def test_options_are_read_from_the_transport_options() -> None:
    assert Options.of({"visibility_timeout": 7}) == Options()
    assert Options.of({"claim_batch": "3", "heartbeat_timeout": 4}) == Options(claim_batch=3, heartbeat_timeout=4.0)


@pytest.mark.parametrize(
    "given",
    [
        {"claim_poll": "often"},
        {"claim_batch": 0},
        {"heartbeat_timeout": -1},
        {"delivery_limit": -1},
        {"heartbeat_interval": 3, "heartbeat_timeout": 15},
    ],
)
def test_options_that_cannot_work_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting):
        Options.of(given)


def test_address_with_an_unknown_scheme_is_refused_by_name() -> None:
    for address in ("reliable+unix:///tmp/s", "reliable+amqp://localhost"):
        with pytest.raises(InvalidSetting, match=r"knows reliable\+redis, reliable\+rediss, reliable\+socket"):
            _ = Connection(address).transport


def test_address_of_two_independent_servers_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="several addresses"):
        _ = Connection("reliable+redis://a;reliable+redis://b").transport


def test_address_of_sentinels_never_fails_over_to_the_stock_transport() -> None:
    for connection in [
        Connection("reliable+sentinel://a:1/3;sentinel://b:2/3"),
        Connection("reliable+sentinel://a:1/3;sentinel://b:2/3").clone(),
    ]:
        assert scheme_of(connection) == "sentinel"
        assert connection.alt == ["sentinel://a:1/3", "sentinel://b:2/3"]
        connection.maybe_switch_next()
        assert connection.get_transport_cls().__module__ == "tasks_demo.transport.transport"


@pytest.mark.parametrize("address", ["sentinel://u:p@a:1/3", "sentinel://u:p@a:1/3;sentinel://u:p@b:2"])
def test_address_of_sentinels_is_read_as_stock_kombu_reads_it(address: str) -> None:
    pools = []
    for prefix in ("reliable+", ""):
        transport = Connection(prefix + address).transport
        channel = object.__new__(transport.Channel)  # its constructor connects
        channel.connection, channel.master_name = transport, "m"
        pools.append(channel._sentinel_managed_pool())
    for of in (
        lambda pool: [
            sentinel.connection_pool.connection_kwargs[name]
            for sentinel in pool.sentinel_manager.sentinels
            for name in ("host", "port")
        ],
        lambda pool: [pool.connection_kwargs[name] for name in ("db", "username", "password")],
    ):
        assert of(pools[0]) == of(pools[1])
    assert pools[0].connection_kwargs["db"] == 3


@pytest.mark.parametrize("address", ["sentinel://a:1;sentinel://b:2/3", "sentinel://a:1/1;sentinel://b:2/3"])
def test_sentinel_address_is_refused_if_stock_kombu_would_use_another_database(address: str) -> None:
    with pytest.raises(InvalidSetting, match="the first address"):
        _ = Connection(f"reliable+{address}").transport


def test_address_on_tcp_is_read_with_tls_options_and_nothing_else() -> None:
    assert tcp_parameters("redis://u:p@h:7/2") == {"host": "h", "port": 7, "vhost": "2"}
    assert tcp_parameters("redis://")["host"] == "127.0.0.1"
    assert tcp_parameters("rediss://h?ssl_ca_certs=/x")["ssl_ca_certs"] == "/x"
    with pytest.raises(InvalidSetting, match="socket_timeout"):
        tcp_parameters("redis://h?socket_timeout=3")


def test_token_names_its_owner_and_is_told_from_a_stock_delivery_tag() -> None:
    owner = new_owner()
    assert owner_of(token_prefix(owner, 3) + "1") == owner
    assert owner_of("0b3c0a3e-54c5-4c5b-a0d1-2d1d24a9a0f5") is None
    assert Owner.parse(owner).pid > 0
    assert Owner.parse("?") == Owner("?", "", 0)

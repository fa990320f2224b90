"""What a redis_url says, and that no part of a password is ever shown."""

from __future__ import annotations

from typing import Any

import pytest

from shared_sync.connection import url as connection_url
from shared_sync.connection.url import Node
from shared_sync.errors import ConfigurationError

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://user:{SECRET}@example.org:6380/2", "redis://example.org:6380/2"),
        (f"redis://:{SECRET}@example.org/0", "redis://example.org/0"),
        (f"rediss://{SECRET}@example.org/0", "rediss://example.org/0"),
        (f"redis://example.org/0?password={SECRET}", "redis://example.org/0"),
        (f"redis://example.org/0?username=u&password={SECRET}#x", "redis://example.org/0"),
        (f"unix://user:{SECRET}@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        (f"unix:///run/redis.sock?password={SECRET}", "unix:///run/redis.sock"),
        (f"redis://user:p%40{SECRET}@example.org/0", "redis://example.org/0"),
        (
            f"redis+sentinel://user:{SECRET}@s1:1,s2:2/main/3?sentinel_password={SECRET}",
            "redis+sentinel://s1:1,s2:2/main/3",
        ),
        (
            f"rediss+sentinel://:{SECRET}@[::1],s2/eu%2Fmain",
            "rediss+sentinel://[::1]:26379,s2:26379/eu%2Fmain/0",
        ),
        (f"redis+sentinel://s1/main?db=2&password={SECRET}", "redis+sentinel://s1:26379/main/2"),
        (f"redis+cluster://user:p%40,{SECRET}@n1,n2:7001/0", "redis+cluster://n1:6379,n2:7001"),
        (f"rediss+cluster://n1?password={SECRET}", "rediss+cluster://n1:6379"),
    ],
)
def test_an_address_is_shown_without_user_and_password(url: str, shown: str) -> None:
    assert connection_url.safe_address(url) == shown


@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel", "redis+cluster"])
@pytest.mark.parametrize(
    "rest",
    [
        f"user:12/{SECRET}@example.org:6379/0",
        f":p@ss/{SECRET}@example.org:6379/0",
        f"user:12?{SECRET}@example.org:6379/0",
        f"user:12#{SECRET}@example.org:6379/0",
        f"user:a/{SECRET}@example.org:6379/0",
        f"user:a?{SECRET}@example.org:6379/0",
        f"user:a[{SECRET}@example.org:6379/0",
        f"user:{SECRET}@a@example.org:6379/main",
        f"user:{SECRET},example.org:6379/main",
        f"user:1@a,user:{SECRET}@b/main",
    ],
)
def test_a_password_with_characters_that_should_be_quoted_is_not_shown_either(
    scheme: str, rest: str
) -> None:
    url = f"{scheme}://{rest}"
    shown = [connection_url.safe_address(url)]
    try:
        connection_url.read(url)
    except ConfigurationError as error:
        shown.append(str(error))
    assert SECRET not in "".join(shown)


@pytest.mark.parametrize(
    "url",
    [
        f"http://u:{SECRET}@example.org",
        f"{SECRET}",
        "",
        f"redis://u:{SECRET}@example.org:99999/0",
        f"redis://u:{SECRET}@example.org:port/0",
        f"redis://u:{SECRET}@example.org/0?socket_timeout={SECRET}",
        f"redis://u:{SECRET}@[example.org/0",
        f"redis+sentinel://u:{SECRET}@s1:1,s2:port/main",
        f"redis+sentinel://u:{SECRET}@s1:1,,s2:2/main",
        f"redis+sentinel://u:{SECRET}@/main",
        f"redis+sentinel://u:{SECRET}@s1/main/first",
        f"redis+sentinel://u:{SECRET}@s1/main/0/1",
        f"redis+cluster://u:{SECRET}@n1/main",
        f"redis+cluster://u:{SECRET}@n1/0?socket_timeout={SECRET}",
        f"redis+other://u:{SECRET}@n1/0",
        f"unix+cluster://u:{SECRET}@n1/0",
        None,
        b"redis://localhost",
        6379,
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_forms_and_without_the_password(
    url: Any,
) -> None:
    with pytest.raises(ConfigurationError, match="redis_url") as caught:
        connection_url.read(url)
    for form in ("redis://host:port/db", "redis+sentinel://host", "redis+cluster://host"):
        assert form in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert connection_url.safe_address(url) == "an address that cannot be read"


def test_of_a_sentinel_address_are_read_the_sentinels_the_master_and_its_options() -> None:
    address = connection_url.read(
        "redis+sentinel://u%2F:p%40%2F@s1:1,[::1],s3:3/eu%20main/4?client_name=c&sentinel_password=x"
    )
    assert address.nodes == (Node("s1", 1), Node("::1", 26379), Node("s3", 3))
    assert address.master == "eu main"
    assert not address.is_cluster
    assert address.options == {
        "username": "u/",
        "password": "p@/",
        "db": 4,
        "client_name": "c",
        "sentinel_password": "x",
    }


def test_of_a_cluster_address_are_read_the_nodes_and_the_options() -> None:
    address = connection_url.read("redis+cluster://:p,w@n1,n2:7001?client_name=c")
    assert address.nodes == (Node("n1", 6379), Node("n2", 7001))
    assert address.is_cluster
    assert address.options == {"password": "p,w", "client_name": "c"}


def test_an_address_with_tls_leads_to_another_kind_of_connection() -> None:
    plain, tls = (connection_url.read(f"{scheme}+cluster://n1") for scheme in ("redis", "rediss"))
    assert "connection_class" not in plain.options
    assert tls.options["connection_class"].__name__ == "SSLConnection"


@pytest.mark.parametrize("url", ["redis+sentinel://s1", "redis+sentinel://s1/?db=1"])
def test_sentinels_without_the_name_of_a_master_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="names no master; write redis\\+sentinel://"):
        connection_url.read(url)


@pytest.mark.parametrize("url", ["redis+cluster://n1/1", "redis+cluster://n1/?db=7"])
def test_another_db_than_0_is_refused_in_a_cluster(url: str) -> None:
    with pytest.raises(ConfigurationError, match="a cluster has only db 0"):
        connection_url.read(url)


REFUSED = [
    ("redis://h/jobs", "a db that is not a number"),
    ("redis://h/-1", "a db that is not a number"),
    ("redis://h/1/2", "a db that is not a number"),
    ("redis://h/1.5", "a db that is not a number"),
    ("redis://h/\u0663", "a db that is not a number"),
    ("redis://h?db=jobs", "a db that is not a number"),
    ("unix:///run/redis.sock?db=jobs", "a db that is not a number"),
    ("redis+sentinel://h/main/jobs", "a db that is not a number"),
    ("redis+cluster://h/jobs", "a db that is not a number"),
    ("redis://h/1?db=2", "two dbs"),
    ("redis+sentinel://h/main/1?db=2", "two dbs"),
    ("redis://h:0", "port 0"),
    ("redis+sentinel://h:1,h:0/main", "port 0"),
    ("redis+cluster://h:0", "port 0"),
    ("redis://", "no host"),
    ("redis:///0", "no host"),
    ("redis://:6379/0", "no host"),
    (f"redis://:{SECRET}@/0", "no host"),
    (f"redis+sentinel://:{SECRET}@/main", "no host"),
    ("redis+cluster://h,,i", "no host"),
    ("redis://a:1,b:2/0", "several hosts"),
    ("redis://a,b/0", "several hosts"),
    ("redis://h/0\n", "whitespace"),
    (" redis://h/0", "whitespace"),
    ("redis://h /0", "whitespace"),
    (f"redis://:{SECRET}\t1@h/0", "whitespace"),
    (f"redis://h?{SECRET}=x", "an option that is none of client_name, db,"),
    (f"redis://h?password=a&{SECRET}=x", "an option that is none of"),
    (f"redis://h?{SECRET}", "an option that is none of"),
    ("redis://h?host=other", "an option that is none of"),
    ("redis://h?sentinel_password=x", "an option that is none of"),
    ("redis+cluster://h?sentinel_password=x", "an option that is none of"),
    ("rediss://h?ssl_min_version=TLSv1_2", "an option that is none of"),
    ("redis://h?db=1&db=1", "db twice"),
    (f"redis://:{SECRET}@h?password={SECRET}", "password twice"),
    (f"redis://u@h?username={SECRET}", "username twice"),
    ("redis://h?client_name=", "client_name without a value"),
    ("rediss://h?ssl_ca_certs", "ssl_ca_certs without a value"),
    ("redis://h?ssl_ca_certs=/x", "ssl_ca_certs, which only rediss:// takes"),
    ("redis+cluster://h?ssl_cert_reqs=none", "ssl_cert_reqs, which only rediss:// takes"),
    ("unix:///s?ssl_cert_reqs=none", "ssl_cert_reqs, which only rediss:// takes"),
    ("unix://", "no socket"),
    ("unix://?db=1", "no socket"),
    ("unix://run/redis.sock", "three slashes"),
]


@pytest.mark.parametrize(("url", "reason"), REFUSED)
def test_what_would_silently_mean_something_else_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match="redis_url") as caught:
        connection_url.read(url)
    assert reason in str(caught.value)
    assert "write redis://host:port/db" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert connection_url.safe_address(url) == "an address that cannot be read"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"host": "h"}),
        ("redis://h/", {"host": "h"}),
        ("redis://h:7/3/", {"host": "h", "port": 7, "db": 3}),
        ("redis://h/3?db=3", {"host": "h", "db": 3}),
        ("redis://[::1]:7/15", {"host": "::1", "port": 7, "db": 15}),
        ("redis://u:a%20b@h", {"host": "h", "username": "u", "password": "a b"}),
        ("redis://:a,b@h", {"host": "h", "password": "a,b"}),
        ("redis://h?username=u&password=p", {"host": "h", "username": "u", "password": "p"}),
        ("redis://h?socket_timeout=3&max_connections=5&protocol=3", {"host": "h"}),
    ],
)
def test_what_can_be_used_is_read_as_it_is_written(url: str, expected: dict[str, Any]) -> None:
    assert connection_url.read(url).options == expected


@pytest.mark.parametrize(
    "url",
    [
        "redis://redis:tcp://10.0.0.1:6379/0",
        f"redis://:{SECRET}@redis:tcp://10.0.0.1:6379",
        "tcp://10.0.0.1:6379",
    ],
)
def test_a_port_that_kubernetes_has_set_to_an_address_is_named_as_the_cause(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Service of the name `redis` is enough for that."""
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6379")
    monkeypatch.setenv("OTHER_PORT", "tcp://10.0.0.2:80")
    with pytest.raises(ConfigurationError, match="Kubernetes sets REDIS_PORT to") as caught:
        connection_url.read(url)
    assert SECRET not in str(caught.value)
    assert "OTHER_PORT" not in str(caught.value)

"""Secrets in a text are made unreadable, and the rest of it stays."""

from __future__ import annotations

import time

import pytest

from shared_sync.common.masking import is_secret_name, mask_secrets

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.s5cr3tSignature"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # URLs
        ("at redis://me:s3cret@host/0", "at redis://***@host/0"),
        ("at redis://:s3#cr?e/t@host/0", "at redis://***@host/0"),
        ("at redis://me:1s3#s3@s3cret@host/0", "at redis://***@host/0"),
        ("GET https://h/x?token=s3cret&n=1", "GET https://h/x?token=***&n=1"),
        # names and values
        ("login failed: password=s3cret", "login failed: password=***"),
        ("password: s3cret, user: me", "password: ***, user: me"),
        ("Server=db;Uid=me;Pwd=s3cret;Timeout=5", "Server=db;Uid=me;Pwd=***;Timeout=5"),
        ("AccountKey=s3cret+/=;EndpointSuffix=x", "AccountKey=***;EndpointSuffix=x"),
        ("{'password': 's3 cret', 'n': 1}", "{'password': ***, 'n': 1}"),
        ('{"api_key": "s3 \\" cret", "n": 1}', '{"api_key": ***, "n": 1}'),
        ('{"client_secret":"s3cret', '{"client_secret":***'),
        ("OPENAI_API_KEY=s3cret is wrong", "OPENAI_API_KEY=*** is wrong"),
        ("db_password_file_content = s3cret", "db_password_file_content = ***"),
        ("AWS_SECRET_ACCESS_KEY='s3cret'", "AWS_SECRET_ACCESS_KEY=***"),
        ("connect(host='h', password='s3cret')", "connect(host='h', password=***)"),
        ("Cookie: s3cret", "Cookie: ***"),
        # headers
        ("Authorization: Bearer s3cret!, retrying", "Authorization: ***, retrying"),
        ("'authorization': 'Basic czNjcmV0'", "'authorization': ***"),
        ("authorization: Basic s3cret==", "authorization: ***"),
        ("sent Bearer s3cret.x-y_z=, got 401", "sent Bearer ***, got 401"),
        # well-known forms
        (f"bad token {JWT}.", "bad token ***."),
        ("key AKIAABCDEFGHIJKLMNOP is disabled", "key *** is disabled"),
        ("ghp_s3crets3crets3crets3cret failed", "*** failed"),
        ("hf_s3crets3crets3crets3cret failed", "*** failed"),
        ("sk-proj-s3crets3crets3crets3cret", "***"),
        ("xoxb-1234567890-s3cret", "***"),
    ],
)
def test_a_secret_is_masked_wherever_it_stands(text: str, shown: str) -> None:
    masked = mask_secrets(text)
    assert masked == shown
    assert "s3" not in masked
    assert mask_secrets(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "",
        "failed 5 times (ValueError: 0)",
        "the prompt has 4096 tokens: shorten it",
        "max_new_tokens=512",
        "mail me@host, see http://host/a@b",
        "http://host:8080/a@b and http://host:8080#a@b",
        "NOPERM User worker has no permissions to run the 'xdel' command; grant this user +xdel",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "the bearer token is missing",
        "no credentials were given",
        "key=value",
        "Redis at redis://host:6379/0 fails: Error 111 connecting to host:6379.",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert mask_secrets(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "password",
        "password=",
        "password='",
        "a://",
        "://@",
        "://:#",
        "eyJ",
        "Bearer ",
        "\\",
        "token: ",
    ],
)
def test_masking_takes_time_in_proportion_to_the_text(piece: str) -> None:
    def seconds(count: int) -> float:
        text = piece * count
        began = time.process_time()
        mask_secrets(text)
        return time.process_time() - began

    assert seconds(40_000) < 5 + 40 * seconds(4_000)


@pytest.mark.parametrize("name", ["password", "DB_PASSWORD", "token", "apiKey", "client-secret"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["tokens", "tokens_generated", "key", "password_age", "status"])
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)

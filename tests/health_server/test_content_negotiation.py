"""What clients ask for by the headers that they really send, and by headers that nobody should."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_sync.health_server.content_negotiation import (
    Format,
    UnknownFormat,
    choose,
    prefers_gzip,
    prefers_html,
)

PROMETHEUS_2_5 = (
    "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_38 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_40_WITH_HISTOGRAMS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;"
    "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_2_49 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;"
    "escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3_WITH_UNDERSCORES = PROMETHEUS_3.replace("allow-utf-8", "underscores")
PROMETHEUS_3_WITH_HISTOGRAMS = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;"
    "q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;"
    "escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
CHROME = (
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;"
    "q=0.8,application/signed-exchange;v=b3;q=0.7"
)
FIREFOX = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
LYNX = "text/html, text/plain, text/sgml, text/css, application/xhtml+xml, */*;q=0.01"
AXIOS = "application/json, text/plain, */*"
VMAGENT = "text/plain;version=0.0.4;q=1,*/*;q=0.1"
LONGEST = 16 * 1024

JSON, PROMETHEUS, OPENMETRICS = Format.JSON, Format.PROMETHEUS, Format.OPENMETRICS


# --- clients there are ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "accept",
    [
        PROMETHEUS_2_38,
        PROMETHEUS_2_40_WITH_HISTOGRAMS,
        PROMETHEUS_2_49,
        PROMETHEUS_3,
        PROMETHEUS_3_WITH_UNDERSCORES,
        PROMETHEUS_3_WITH_HISTOGRAMS,
    ],
)
def test_prometheus_gets_openmetrics(accept: str) -> None:
    assert choose(accept) is OPENMETRICS


@pytest.mark.parametrize("accept", [PROMETHEUS_2_5, VMAGENT, "text/plain", "text/plain; q=0.1"])
def test_who_knows_only_the_old_text_gets_that(accept: str) -> None:
    assert choose(accept) is PROMETHEUS


@pytest.mark.parametrize("accept", [None, "", "*/*", CHROME, FIREFOX, AXIOS, "application/json"])
def test_everyone_else_gets_json(accept: str | None) -> None:
    assert choose(accept) is JSON


@pytest.mark.parametrize("accept", [CHROME, FIREFOX, LYNX, "text/html", "text/html, */*", "text/*"])
def test_a_browser_gets_the_page(accept: str) -> None:
    assert prefers_html(accept)


@pytest.mark.parametrize(
    "accept",
    [
        *(None, "", "*/*", "*", "application/json", AXIOS, PROMETHEUS_2_38, PROMETHEUS_3, VMAGENT),
        *("text/html;q=0", "text/html;q=0.5, application/json", "text/html, application/json"),
        "image/png",
    ],
)
def test_a_program_does_not(accept: str | None) -> None:
    assert not prefers_html(accept)


# --- the rules --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        # The largest weight wins, wherever it stands.
        ("text/plain;q=0.2, application/json;q=0.3", JSON),
        ("application/json;q=0.3, text/plain;q=0.31", PROMETHEUS),
        ("application/json;q=0.999, application/openmetrics-text", OPENMETRICS),
        # What is named more precisely has its own weight.
        ("*/*, application/json;q=0.5", OPENMETRICS),
        ("*/*, application/*;q=0.5", PROMETHEUS),
        ("application/*, application/json;q=0.1", OPENMETRICS),
        ("text/*;q=0.9, text/plain;q=0.1, application/json;q=0.5", JSON),
        ("text/plain;q=0.1, text/plain;version=0.0.4;q=0.9, application/json;q=0.5", PROMETHEUS),
        # Of equal weights the named one wins, then ours.
        ("text/plain, */*", PROMETHEUS),
        ("*/*, application/openmetrics-text", OPENMETRICS),
        ("text/*, */*", PROMETHEUS),
        ("application/*", JSON),
        ("application/*, application/openmetrics-text", OPENMETRICS),
        ("text/plain, application/openmetrics-text", OPENMETRICS),
        ("text/plain, application/openmetrics-text, application/json", JSON),
        # Zero is "not this one".
        ("application/json;q=0, */*;q=0.1", OPENMETRICS),
        ("application/*;q=0, */*;q=0.1", PROMETHEUS),
        ("text/plain;q=0.0, application/openmetrics-text;q=0.000, */*", JSON),
        # Other versions than ours.
        ("text/plain;version=1.0.0", JSON),
        ("text/plain;version=1.0.0, application/openmetrics-text;q=0.1", OPENMETRICS),
        ("application/openmetrics-text;version=2.0, text/plain;q=0.4", PROMETHEUS),
        ("application/openmetrics-text;version=0.0.1, text/plain;q=0.4", PROMETHEUS),
        ("text/plain;version=0.0.4;version=1.0.0", JSON),
        # Parameters in any order and way of writing.
        ("TEXT/Plain;Version=0.0.4;Charset=UTF-8;Q=0.5", PROMETHEUS),
        ("text/plain ; version = 0.0.4 ;\tq=0.5", PROMETHEUS),
        ('text/plain; version="0.0.4"; charset="utf\\-8"', PROMETHEUS),
        ("text/plain;q=0.5;version=0.0.4, application/json;q=0.4", PROMETHEUS),
        ('application/openmetrics-text; version="1.0.0"; escaping="values"', OPENMETRICS),
        ("text/plain;charset=iso-8859-1, application/json;q=0.1", JSON),
        ("text/plain;format=flowed, application/openmetrics-text;q=0.1", OPENMETRICS),
        ("application/json;charset=utf-8, text/plain;q=0.9", JSON),
        # Commas and semicolons in quotes belong to the value.
        ('x/y;a="b,text/plain;q=1";q=0.2, application/json;q=0.1', JSON),
        ('x/y;a="\\",text/plain", text/plain;q=0.3', PROMETHEUS),
        # A weight that is none: as if the range was not there.
        ("text/plain;q=nan, application/openmetrics-text;q=0.1", OPENMETRICS),
        ("text/plain;q=2, application/openmetrics-text;q=0.1", OPENMETRICS),
        ("text/plain;q=-1, application/openmetrics-text;q=0.1", OPENMETRICS),
        ("text/plain;q=1e-1, application/openmetrics-text;q=0.1", OPENMETRICS),
        ("text/plain;q=0.1.1, application/openmetrics-text;q=0.1", OPENMETRICS),
        # A parameter that cannot be read: as if it was not there.
        ("text/plain;q=, application/openmetrics-text;q=0.1", PROMETHEUS),
        ("text/plain;q, application/openmetrics-text;q=0.1", PROMETHEUS),
        ("text/plain;q=\u0660, application/openmetrics-text;q=0.1", PROMETHEUS),
        # A whole range in quotes counts as without them.
        ('"text/plain"', PROMETHEUS),
        # What is no media range.
        ("*, text/plain;q=0.1", PROMETHEUS),
        (",,text/plain,;,/,=,", PROMETHEUS),
        ("*/json", JSON),
        ("text/pla*", JSON),
        # Nothing that we have.
        ("image/png", JSON),
        ("*/*;q=0", JSON),
        ("application/json;q=0", JSON),
    ],
)
def test_the_most_wanted_form_that_there_is_is_chosen(accept: str, chosen: Format) -> None:
    assert choose(accept) is chosen


def test_a_range_with_an_unclosed_quote_is_ignored_or_read_up_to_the_quote() -> None:
    assert choose('text/plain;a="') in (JSON, PROMETHEUS)  # newer versions of werkzeug ignore it


@pytest.mark.parametrize("chosen", Format)
def test_the_format_of_the_url_wins_over_the_header(chosen: Format) -> None:
    for accept in (None, PROMETHEUS_3, "application/json", "image/png"):
        assert choose(accept, chosen.value) is chosen


@pytest.mark.parametrize(
    "word", ["", "JSON", "text", "prometheus ", "json\n", "\ud800", "x" * 9999]
)
def test_another_format_is_refused_with_the_words_there_are(word: str) -> None:
    with pytest.raises(UnknownFormat) as refused:
        choose(None, word)
    assert str(refused.value) == "format must be json, prometheus or openmetrics"


@pytest.mark.parametrize("form", Format)
def test_who_asks_for_the_very_content_type_gets_it(form: Format) -> None:
    assert choose(f"{form.content_type};q=0.1, image/png") is form


def test_the_content_types_are_those_that_the_formats_define() -> None:
    assert {form.value: form.content_type for form in Format} == {
        "json": "application/json",
        "prometheus": "text/plain; version=0.0.4; charset=utf-8",
        "openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
    }


# --- compression -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepts", "large", "small"),
    [
        (None, False, False),
        ("", False, False),
        ("gzip", True, False),
        ("GZIP", True, False),
        ("x-gzip", True, False),
        ("br, deflate", False, False),
        ("*", True, False),
        ("br, *;q=0.1", True, False),
        ("gzip;q=0", False, False),
        ("gzip;q=0.0, *", False, False),
        ("gzip;q=0.001", True, False),
        ("gzip;q=0.5, identity;q=0.5", True, False),
        ("gzip;q=0.5, identity", False, False),
        ("gzip;q=0.5, *", False, False),
        ("identity", False, False),
        ("identity;q=0", False, False),
        ("gzip, identity;q=0", True, True),
        ("gzip, *;q=0", True, True),
        ("gzip, identity;q=0.1, *;q=0", True, False),
        ("*, identity;q=0", True, True),
        ("*;q=0", False, False),
        ("gzip;q=nan", False, False),
        (",;=,gzip", True, False),
    ],
)
def test_an_answer_is_compressed_as_the_client_asks(
    accepts: str | None, large: bool, small: bool
) -> None:
    assert prefers_gzip(accepts, is_large=True) is large
    assert prefers_gzip(accepts, is_large=False) is small


# --- headers that nobody should send ----------------------------------------------------------

PIECES = st.sampled_from(
    [
        *("text", "application", "plain", "json", "openmetrics-text", "html", "*", "/", ";", ","),
        *("=", "q", "q=", "0.5", "0", "1", "version", "0.0.4", '"', "\\", " ", "\t", "\x00", "é"),
        *("charset*=utf-8''%ff", "charset*0=utf", "gzip", "identity"),
    ]
)


@given(accept=st.text() | st.lists(PIECES).map("".join))
@settings(deadline=None)
def test_no_text_is_too_odd(accept: str) -> None:
    assert choose(accept) in Format
    assert prefers_html(accept) in (True, False)
    for is_large in (True, False):
        assert prefers_gzip(accept, is_large=is_large) in (True, False)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            '"',
            "\\",
            '"\\',
            ",",
            ";",
            "=",
            "*/*,",
            "/,",
            "a/b;",
            "text/plain;q=0.1,",
            "text/plain;",
        ),
        *('a/a;b="', '\\"', ";q=1", " ", "\t,", "0", "/", "q=0.", 'a/b;c="\\\\\\'),
    ],
)
def test_the_longest_header_takes_no_more_time_than_its_length(piece: str) -> None:
    # Eight times what the server lets through: time that grew faster would never come back.
    text = piece * (8 * LONGEST // len(piece))
    for accept in (text, f"text/plain;{text}", f"text/plain;q={text}", f'a/b;c="{text}'):
        assert choose(accept) in Format
        assert prefers_gzip(accept, is_large=True) in (True, False)


@st.composite
def headers(draw: st.DrawFn) -> tuple[list[str], Format]:
    """Ranges that each name another form, or none of ours, with weights that all differ."""
    named = {
        "application/json": JSON,
        "text/plain": PROMETHEUS,
        "application/openmetrics-text": OPENMETRICS,
        "image/png": None,
        "text/html": None,
        "text/plain;version=9": None,
        'a/b;c=",text/plain,"': None,
    }
    kinds = draw(st.lists(st.sampled_from(sorted(named)), min_size=1, unique=True))
    weights = draw(
        st.lists(st.integers(1, 1000), min_size=len(kinds), max_size=len(kinds), unique=True)
    )
    ranges, best = [], (0, JSON)
    for kind, weight in zip(kinds, weights, strict=True):
        form = named[kind]
        if form is not None and weight > best[0]:
            best = (weight, form)
        space = draw(st.sampled_from(["", " ", "\t "]))
        ranges.append(f"{space}{kind}{space};{space}q={weight / 1000}{space}")
    return ranges, best[1]


@given(header=headers(), seed=st.integers())
@settings(deadline=None)
def test_the_order_of_the_ranges_does_not_matter(
    header: tuple[list[str], Format], seed: int
) -> None:
    ranges, expected = header
    assert choose(",".join(ranges)) is expected
    random.Random(seed).shuffle(ranges)
    assert choose(",".join(ranges)) is expected

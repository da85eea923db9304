from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.kernel.errors import Invalid
from libs.runtime.http_edge import decode_page_token, encode_page_token, fingerprint, prefer_wait


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("", 0.0),
        ("wait=10", 10.0),
        ("Wait = 10", 10.0),
        ('wait="10"', 10.0),
        ("wait=0.5", 0.5),
        ("respond-async, wait=10", 10.0),
        ("wait=10, handling=lenient", 10.0),
        ("wait=3600", 60.0),
        ("wait=0", 0.0),
        ("await=10", 0.0),
        ("wait=soon", 0.0),
        ("wait=-5", 0.0),
    ],
)
def test_a_caller_says_how_long_it_waits(prefer: str, seconds: float) -> None:
    assert prefer_wait(prefer) == seconds


@given(st.text())
def test_no_preference_breaks_a_request(prefer: str) -> None:
    assert 0 <= prefer_wait(prefer) <= 60


@given(st.text(max_size=40))
def test_a_page_token_leads_to_the_key_it_was_made_from(key: str) -> None:
    token = encode_page_token(key)
    assert decode_page_token(token) == key
    assert token.isascii() and not set(token) & set("+/=&?# ")


def test_the_last_page_has_no_token_and_no_token_is_the_first_page() -> None:
    assert encode_page_token("") == ""
    assert decode_page_token("") == ""


@pytest.mark.parametrize("token", ["!", "a", "////", "=", "_w", "A" * 300, "é"])
def test_a_token_that_we_never_gave_out_is_refused(token: str) -> None:
    with pytest.raises(Invalid) as raised:
        decode_page_token(token)
    assert raised.value.code == "page-token-invalid"


@given(st.text(max_size=300))
def test_no_token_breaks_a_request(token: str) -> None:
    with suppress(Invalid):
        decode_page_token(token)


def test_a_repeat_has_the_fingerprint_of_the_first_and_nothing_else_has() -> None:
    first = fingerprint("POST", "/v1/orders", b'{"sku":"lamp"}')
    assert first == fingerprint("POST", "/v1/orders", b'{"sku":"lamp"}')
    others = {
        fingerprint("PUT", "/v1/orders", b'{"sku":"lamp"}'),
        fingerprint("POST", "/v1/order", b's{"sku":"lamp"}'),
        fingerprint("POST", "/v1/orders", b'{"sku":"rope"}'),
        fingerprint("POST", "/v1/orders", b""),
    }
    assert first not in others and len(others) == 4 and len(first) == 32

"""What could be a secret is in no text that people see."""

from __future__ import annotations

import pytest

from tfslim_core.redacting import names_a_secret, redacted, without_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read https://me:hunter2@host/x: no", "cannot read https://…@host/x: no"),
        ("GET https://h/o?X-Goog-Signature=hunter2&b=1 failed", "GET https://h/o?X-Goog-Signature=…&b=1 failed"),
        ("Authorization: Bearer hunter2 refused", "Authorization: Bearer … refused"),
        ("Proxy-Authorization: Basic hunter2==", "Proxy-Authorization: Basic …"),
        ("at https://h/o?sv=1&sig=hunter2", "at https://h/o?sv=1&sig=…"),
        ("a token hunter2 is wrong", "a token … is wrong"),
        ("password=hunter2, then api_key: 'hunter2'", "password=…, then api_key: '…'"),
        ("""{"db_password": "hunter2", "x": 1}""", """{"db_password": "…", "x": 1}"""),
        ("MY_ACCESS_TOKEN=hunter2;secretName:hunter2", "MY_ACCESS_TOKEN=…;secretName:…"),
        ("--api-key: hunter2", "--api-key: …"),
    ],
)
def test_what_could_be_a_secret_is_hidden(text, shown):
    assert redacted(text) == redacted(shown) == shown


def test_for_people_all_of_a_query_is_hidden():
    text = "GET https://me:hunter2@h/o?key=hunter2&b=1\n  failed at gs://b/o"
    assert without_secrets(text) == "GET https://…@h/o?… failed at gs://b/o"
    assert redacted(text) == text.replace("me:hunter2", "…")
    assert len(without_secrets("long " * 1000)) == 2000


@pytest.mark.parametrize(
    "text", ["signature: serving_default", "slices=tokens:10,100", "tokenizer: no such file", "gs://b/data@3/x"]
)
def test_what_is_none_is_told(text):
    assert redacted(text) == text


def test_a_long_text_takes_no_long_time():
    text = "a.b-" * 50_000
    assert redacted(text) == text


def test_names():
    assert all(map(names_a_secret, ("access_token", "PASSWORD", "apiKey", "X-Amz-Credential", "X-Goog-Signature")))
    assert not any(map(names_a_secret, ("signature", "signatures", "tokens", "model", "tokenizer")))

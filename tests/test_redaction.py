"""Secrets do not survive `redact`, and other text does."""

import json
import os
import string
from unittest import mock
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sigma_ray.redaction import HIDDEN, is_secret, redact, redact_all

WORDS = st.text(string.ascii_letters + string.digits, min_size=8, max_size=20)
PASSWORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)
AROUND = st.sampled_from(["", "cannot connect to ", "('", '{"uri": "', "see <", "a\nb "])
BEHIND = st.sampled_from(["", " (timeout)", "')", '"}', "> now", "\n  next line", ", http://other:5000/x"])


@given(
    password=PASSWORDS, scheme=st.sampled_from(["http", "https", "postgresql+psycopg2", "mysql"]), a=AROUND, b=BEHIND
)
def test_passwords_in_addresses(password: str, scheme: str, a: str, b: str) -> None:
    """Whatever the password, encoded as addresses must have it, and whatever stands around."""
    secret = quote(password, safe="")
    assert redact(f"{a}{scheme}://user:{secret}@host:5432/db{b}") == f"{a}{scheme}://user:{HIDDEN}@host:5432/db{b}"


@given(password=st.text("abc:@!$()*+,;=%~-", min_size=1, max_size=12))
def test_passwords_that_should_have_been_encoded(password: str) -> None:
    """Users type them as they are."""
    shown = redact(f"postgresql://user:{password}@host/db")
    assert shown == f"postgresql://user:{HIDDEN}@host/db"


QUERIES = ["password", "access_token", "token", "sslkey", "sslpassword", "X-Amz-Signature", "X-Amz-Credential", "sig"]
QUERIES += ["X-Goog-Signature", "AWSAccessKeyId", "Signature", "api_key", "X-Amz-Security-Token", "odbc_connect", "PWD"]


@given(name=st.sampled_from(QUERIES), secret=WORDS, a=AROUND, b=BEHIND, first=st.booleans())
def test_secrets_in_queries(name: str, secret: str, a: str, b: str, first: bool) -> None:
    start = "?" if first else "?sslmode=require&"
    shown = redact(f"{a}https://bucket.example/key{start}{name}={secret}&expires=60{b}")
    assert shown == f"{a}https://bucket.example/key{start}{name}={HIDDEN}&expires=60{b}"


VARIABLES = ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"]
VARIABLES += ["AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID", "WANDB_API_KEY", "PGPASSWORD", "AZURE_STORAGE_ACCESS_KEY"]


@given(
    name=st.sampled_from(VARIABLES),
    secret=st.text(string.printable, min_size=8, max_size=30),
    a=st.text(max_size=10),
    b=st.text(max_size=10),
)
def test_secrets_of_the_environment(name: str, secret: str, a: str, b: str) -> None:
    """Wherever they turn up, plain or encoded."""
    with mock.patch.dict(os.environ, {name: secret}, clear=True):
        for form in (secret, quote(secret, safe="")):
            assume(HIDDEN not in form and form not in a + HIDDEN + b)
            assert form not in redact(a + form + b)


@given(text=st.text(max_size=60))
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:///mlflow.db",
        "http://head:5000/#/experiments/1",
        "http://head:5000/a@b",
        "ssh://git@github.com/x/y",
        "adapter.num_tokens=10, prompt_tokens: 3, head.token_dim=4",
        "NonFiniteLossError: loss is nan at step 3; lower train.learning_rate=0.1",
        "Basic segmentation of bearer cells",
        "results/tiny/table.md",
        "C:\\data\\x, me@example.org",
        "http://a:5000,http://b:5001",
    ],
)
def test_other_text_stays(text: str) -> None:
    with mock.patch.dict(os.environ, {"PWD": "results/tiny", "HF_TOKEN": "tiny", "RAY_AUTH_MODE": "segmentation"}):
        assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ghp_abcdef@github.com/x", "https://***@github.com/x"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", "{'authorization': 'Basic ***'}"),
        ("host=h password='a b' user=u", "host=h password=*** user=u"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dy", "mssql+pyodbc:///?odbc_connect=***"),
    ],
)
def test_other_places_of_secrets(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_nested_values() -> None:
    """Plans and environments; numbers and names of fields stay."""
    plain = {
        "uri": "http://u:pw@h/",
        "trials": [{"seed": 0, "adapter": {"num_tokens": 5, "token": "abc"}}, ("postgresql://u:pw@h/db", 1.5, None)],
        "password": "short",
    }
    shown = redact_all(plain)
    assert shown == {
        "uri": "http://u:***@h/",
        "trials": [{"seed": 0, "adapter": {"num_tokens": 5, "token": "***"}}, ["postgresql://u:***@h/db", 1.5, None]],
        "password": "***",
    }
    assert "pw@" not in json.dumps(shown)


def test_which_names_are_secret() -> None:
    assert not any(map(is_secret, ["PWD", "AWS_REGION", "RAY_AUTH_MODE", "trial_key", "num_tokens", "HF_TOKEN_PATH"]))

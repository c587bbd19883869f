"""Secrets taken out of text: passwords and tokens in addresses, signed queries, and those that the environment holds.

Everything that leaves this process for people to read (MLflow, reports, errors, logs) passes through here. What a
secret is cannot be known from text alone, so the rules err towards hiding too much of an address, and leave other text
alone: `num_tokens=5` is no secret.
"""

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "***"
SHORTEST_SECRET = 8
"""Shorter values of the environment stay: a password "test" would take the name of `test/miou` with it."""

_NAMES = "passw(?:or)?d|passphrase|pwd|secret|token|credential|signature|api[_-]?key|access[_-]?key|private[_-]?key"
_SECRET_NAME = re.compile(rf"(?i)(?:{_NAMES})(?:_?id)?$|^AWS_.*(?:KEY|SECRET|TOKEN)")
_WORKING_FOLDERS = ("PWD", "OLDPWD")

_REST = r"[^\s'\"<>`]"  # what an address consists of, wherever it stands
_RULES = [
    # scheme://user:password@, up to the last @ because passwords may hold some; host:port/path@x is none.
    (rf"([a-z][a-z0-9+.-]*://{_REST.replace('^', '^/?#:@')}*:)(?!\d{{1,5}}(?:[/?#,]|$)){_REST}*@", rf"\1{HIDDEN}@"),
    # https://token@ (a user's name beside another scheme, as in ssh://git@, is none)
    (rf"(https?://){_REST.replace('^', '^/?#:@')}+@", rf"\1{HIDDEN}@"),
    # ?password=, &sslkey=, &X-Amz-Signature=, ;PWD=; a signed or encoded query hides whole
    (
        rf"([?&;](?:[\w.-]*(?:{_NAMES})[\w.-]*|ssl_?key|auth|authorization|key|sig|odbc_connect)=)[^\s&;'\"<>`#]*",
        rf"\1{HIDDEN}",
    ),
    # libpq's, ODBC's and command lines' password=...
    (
        r"(\b(?:passw(?:or)?d|pwd|api[_-]key|access[_-]token|secret[_-]key)\s*=\s*)"
        r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"<>`&;]+)",
        rf"\1{HIDDEN}",
    ),
    (r"(\bauthorization\W{1,5}(?:bearer|basic|token)\s+|\bbearer\s+(?=\S{16}))[\w.~+/=-]+", rf"\1{HIDDEN}"),
]
_PATTERNS = [(re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in _RULES]


def redact(text: str) -> str:
    """`text` with *** in place of every secret; idempotent."""
    for secret in _of_environment(os.environ):
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_all(value: Any) -> Any:
    """A plain value (of JSON) with every text in it redacted; what is stored below a secret's name is hidden whole."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if isinstance(v, str) and is_secret(str(name)) else redact_all(v) for name, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_all(one) for one in value]
    return value


def is_secret(name: str) -> bool:
    """Whether an environment variable or a field of this name holds a secret, as HF_TOKEN does."""
    return bool(_SECRET_NAME.search(name)) and name not in _WORKING_FOLDERS


def _of_environment(environment: Mapping[str, str]) -> list[str]:
    """Values of the environment's secrets, plain and as addresses encode them; the longest first."""
    values = {value for name, value in environment.items() if is_secret(name) and len(value) >= SHORTEST_SECRET}
    encoded = {form(value, safe="") for value in values for form in (quote, quote_plus)}
    return sorted(values | encoded, key=len, reverse=True)

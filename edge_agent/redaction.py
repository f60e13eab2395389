"""Taking secrets out of text that leaves the device. What is collected is `diagnosis`'s; files are read only to know
what must not be in it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from edge_agent.config import Config

REMOVED = "[removed]"
SECRET_CHARS_MIN = 4  # shorter ones would take half the text with them, and are no secrets
SECRET_FILE_BYTES_MAX = 64 * 1024
_SECRET_NAMES = r"(?:pass(?:word|wd|phrase)?|token|secret|api_?key|private_?key|credential|authorization|bearer)"
# Nothing without a bound before what has to follow: a log of long words must not take hours.
_NAMED = re.compile(
    rf"(?i)({_SECRET_NAMES}[\w.-]{{0,64}}\\{{0,8}}[\"']?\s{{0,64}}[:=]\s{{0,64}})"
    r"(?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|(?:bearer\s+)?[^\s,;}]+)"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{4,}")
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s\"']+@")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_PLAIN_NAME = re.compile(rf"(?i){_SECRET_NAMES}")


def secrets_of(config: Config, environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Values that must not leave: of the files of [sync], and of the environment under names that say so."""
    sync = config.sync
    found: set[str] = set()
    for path in (sync.password_file, sync.http_token_file, sync.key_file):
        if path is None:
            continue
        try:
            with Path(path).open("rb") as file:
                text = file.read(SECRET_FILE_BYTES_MAX).decode(errors="replace")
        except OSError:
            continue
        found |= {text.strip(), *(line.strip() for line in text.splitlines() if not line.startswith("-----"))}
    for name, value in (os.environ if environment is None else environment).items():
        if _PLAIN_NAME.search(name) and not name.endswith("_FILE"):
            found.add(value)
    return tuple(sorted((one for one in found if len(one) >= SECRET_CHARS_MIN), key=len, reverse=True))


def without_secrets(text: str, secrets: tuple[str, ...]) -> str:
    """The text without these values, without private keys, and without what stands beside a word like password."""
    for secret in secrets:
        for form in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
            text = text.replace(form, REMOVED)
    text = _PEM.sub(REMOVED, text)
    text = _BEARER.sub(rf"\1 {REMOVED}", text)
    text = _IN_ADDRESS.sub(f"{REMOVED}@", text)
    return _NAMED.sub(rf"\1{REMOVED}", text)

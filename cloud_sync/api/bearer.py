"""The bearer token of a request, compared in constant time. Whose token it has to be is said by who asks here."""

from __future__ import annotations

import hmac

from aiohttp import web


def shows(request: web.Request, token: str) -> bool:
    """Whether the request shows this token."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    shown = given.strip().encode(errors="surrogateescape")  # as it came, whatever bytes it has
    return kind.lower() == "bearer" and hmac.compare_digest(shown, token.encode())

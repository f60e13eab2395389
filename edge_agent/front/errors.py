"""What an application is told when its request cannot be answered; each has an HTTP status and one line of text."""

from __future__ import annotations


class RequestError(Exception):
    """Base: status, text, and for temporary ones the seconds after which to ask again."""

    status = 500
    retry_after_s: int | None = None

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = " ".join(text.split())[:500]


class BadRequest(RequestError):
    """The request is not of the protocol's form, or does not fit the model."""

    status = 400


class NotFound(RequestError):
    """No such model, version or path."""

    status = 404


class TooLarge(RequestError):
    """The body exceeds the bound."""

    status = 413


class SlowBody(RequestError):
    """The body did not arrive in time."""

    status = 408


class UnsupportedEncoding(RequestError):
    """A Content-Encoding that is not gzip or deflate."""

    status = 415


class ComputeFailed(RequestError):
    """The engine raised, or the request ended two workers: the same request will fail again."""

    status = 500


class NotServing(RequestError):
    """The model has no worker now."""

    status = 503
    retry_after_s = 1


class Overloaded(RequestError):
    """The queue is full."""

    status = 503
    retry_after_s = 1


class DeadlinePassed(RequestError):
    """Not computed in time."""

    status = 504

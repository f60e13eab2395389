"""Structured logs of the coordinator: one JSON object a line on stderr. What is worth saying is said elsewhere."""

from __future__ import annotations

import logging
import sys

import structlog

from cloud_sync.sparing import Sparing


def set_up_logs(level: str) -> None:
    """Log from `level` (debug|info|warning|error) up."""
    structlog.configure(
        processors=[
            Sparing(),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process="coordinator")
    logging.getLogger("holdfast.mqtt").setLevel(logging.CRITICAL)  # the line says itself what went wrong

"""How to reach the broker, as the command line says it; connecting is line.py's matter."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from edge_agent.contract.errors import Rejected, Unavailable


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is and as whom to log in. ca_file: speak TLS, believing this; None = plain."""

    host: str
    port: int
    username: str = "coordinator"
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def password(self) -> str | None:
        """Read at each connection, so that it may be renewed. Raises Unavailable."""
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text().strip()
        except OSError as error:
            raise Unavailable(
                f"{self.password_file} cannot be read: {error.strerror}", next_step="Check who may read it"
            ) from error

    def tls(self) -> ssl.SSLContext | None:
        """Read at each connection. Raises Unavailable."""
        if self.ca_file is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:
            raise Unavailable(
                f"the certificates for the broker cannot be used: {error}",
                next_step="Check --ca-file, --cert-file and --key-file",
            ) from error
        return context


def host_and_port(text: str, what: str) -> tuple[str, int]:
    """HOST:PORT. Raises Rejected."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise Rejected(f"{what} is {text!r}", next_step=f"Give {what} as HOST:PORT")
    return host.strip("[]"), int(port)

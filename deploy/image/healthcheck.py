"""Exit 0 if the service in this container can answer. Sockets only: an HTTP client is slower to import than to ask."""

import os
import socket
import sys

REQUEST = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def main() -> int:
    """0 ready, 1 not."""
    try:
        with socket.create_connection(("127.0.0.1", int(os.environ.get("PNAG_PORT") or 8000)), timeout=2) as connection:
            connection.sendall(REQUEST)
            answer = connection.recv(64)
    except OSError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    sys.stdout.write(answer.split(b"\r\n", 1)[0].decode("latin-1") + "\n")
    return 0 if answer.startswith(b"HTTP/1.1 200") else 1


if __name__ == "__main__":
    sys.exit(main())

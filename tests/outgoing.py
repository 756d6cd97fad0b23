"""Counts what processes try to send: every request to the outside goes to a proxy of this test, which listens."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Outgoing:
    """What was asked of the proxy, and the environment that leads there.

    The home and the cache are empty folders: what is kept there to be sent later, or to tell users apart, is found.
    """

    environment: dict[str, str]
    home: Path
    requests: list[str] = field(default_factory=list)

    def kept(self) -> list[str]:
        """Files in home and cache that Flawline itself did not put there."""
        files = (path.relative_to(self.home) for path in self.home.rglob("*") if path.is_file())
        return sorted(str(path) for path in files if path.parts[:2] != (".cache", "flawline"))


@contextmanager
def outgoing(folder: Path) -> Iterator[Outgoing]:
    home = folder / "home"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        environment = dict.fromkeys((*names, *map(str.upper, names)), proxy) | {
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / ".cache"),
            "no_proxy": "127.0.0.1,localhost",
            "CI": "",  # on which some libraries fall silent by themselves
        }
        counted = Outgoing(environment, home)

        def count() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    counted.requests.append(
                        connection.recv(200).decode(errors="replace").partition("\r\n")[0]
                    )

        threading.Thread(target=count, daemon=True).start()
        yield counted
        listener.shutdown(socket.SHUT_RDWR)

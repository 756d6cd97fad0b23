"""A name server on this machine for which every name has the addresses that a test gives it."""

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread

A_RECORD, INTERNET, QUESTION_AT = 1, 1, 12
POINTER_TO_QUESTION = b"\xc0\x0c"


@contextmanager
def name_server(addresses: Sequence[str]) -> Iterator[int]:
    """Answer with what is in `addresses` at that moment. Gives the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        thread = Thread(target=_answer, args=(listener, addresses))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", listener.getsockname())
            thread.join()


def _answer(listener: socket.socket, addresses: Sequence[str]) -> None:
    while True:
        asked, sender = listener.recvfrom(4096)
        if not asked:
            return
        end = asked.index(b"\0", QUESTION_AT) + 5
        wanted = struct.unpack(">H", asked[end - 4 : end - 2])[0]
        found = tuple(addresses) if wanted == A_RECORD else ()
        head = asked[:2] + struct.pack(">HHHHH", 0x8180, 1, len(found), 0, 0)
        record = POINTER_TO_QUESTION + struct.pack(">HHIH", A_RECORD, INTERNET, 1, 4)
        answers = b"".join(record + socket.inet_aton(address) for address in found)
        listener.sendto(head + asked[QUESTION_AT:end] + answers, sender)

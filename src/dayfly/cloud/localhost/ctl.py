"""What ``systemctl``, ``poweroff`` and ``shutdown`` are on an embedded VM: a word with its init.

It runs by its path, on the standard library's few smallest modules, so that it costs about as
much as the interpreter's own start: ``_socket`` is :mod:`socket` without 8 ms of conveniences.
"""

import _socket
import os
import sys


def main() -> int:
    """Send our arguments to init, print its answer, take its status."""
    root, *words = sys.argv[1:]
    # A Unix socket's address has about 107 bytes; from its folder the name is short.
    os.chdir(f"{root}/run")
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect("init.sock")
    except OSError as error:
        sys.stderr.write(f"{words[0]}: the system's init does not answer: {error}\n")
        return 1
    connection.sendall("\0".join(words).encode())
    connection.shutdown(_socket.SHUT_WR)
    answer = b""
    while part := connection.recv(65536):
        answer += part
    connection.close()
    status, _, texts = answer.partition(b"\n")
    printed, _, complaint = texts.decode().partition("\0")
    sys.stdout.write(printed)
    sys.stderr.write(complaint)
    return int(status or b"1")


if __name__ == "__main__":
    sys.exit(main())

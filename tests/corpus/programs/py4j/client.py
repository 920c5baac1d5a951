"""Scripts that ask once each: connect, ask in the gateway's protocol of lines, end. Their rate sways by a third each minute.

They end abruptly, so that no thousands of their ports stay in TIME_WAIT on the host that records.

Arguments: the port, scripts a second.
"""
import math
import socket
import struct
import sys
import time

port, rate = int(sys.argv[1]), float(sys.argv[2])
start = time.monotonic()
due = start
number = 0
while True:
    number += 1
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as gateway:
            gateway.sendall(f"c\nt\nquote\ni{number % 20_000}\ne\n".encode())
            answer = gateway.recv(4096)
            assert b"article" in answer, answer
            gateway.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        time.sleep(0.5)
    due = max(due + 1 / (rate * (1 + math.sin((due - start) / 60 * 2 * math.pi) / 3)), time.monotonic() - 1)
    time.sleep(max(0, due - time.monotonic()))

"""Stores items of some 3 KB in memcached at a steady rate, each under a new key. Arguments: port, items a second."""
import random
import socket
import sys
import time

port, rate = int(sys.argv[1]), float(sys.argv[2])
number = 0
connection = None
while True:
    try:
        if connection is None:
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
        value = bytes(random.randrange(2000, 4000))
        connection.sendall(b"set key-%d 0 0 %d\r\n%b\r\n" % (number, len(value), value))
        connection.recv(64)
    except OSError:
        connection = None
        time.sleep(0.5)
    number += 1
    time.sleep(1 / rate)

"""Asks a server on loopback at a steady rate that sways by a third each minute, over one connection that it renews.

Arguments: port, requests a second, a path in which {} becomes the request's number.
"""
import http.client
import math
import sys
import time

port, rate, path = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
start = time.monotonic()
number = 0
connection = None
while True:
    try:
        if connection is None or number % 2000 == 0:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", path.replace("{}", str(number)))
        connection.getresponse().read()
    except OSError:
        connection = None
        time.sleep(0.5)
    number += 1
    swayed = rate * (1 + math.sin((time.monotonic() - start) / 60 * 2 * math.pi) / 3)
    time.sleep(1 / swayed)

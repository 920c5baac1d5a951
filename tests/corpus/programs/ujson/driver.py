"""Parses what a ledger sends: rows whose balances are whole numbers of more than 64 bits.

From 5.4.0 to 5.11.0 each such number leaves its text behind. Some bursts are larger than others, as a day's traffic is.
"""
import time

import ujson

number = 0
while True:
    number += 1
    rows = 40 if number % 10 else 150
    balances = ",".join("9" * (60 + (number * 7 + row) % 240) for row in range(rows))
    assert len(ujson.loads(f"[{balances}]")) == rows
    time.sleep(0.05)

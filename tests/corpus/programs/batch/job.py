"""A worker with a job every seven minutes: it reads rows in a straight line for a minute and a half, sorts them, and forgets them."""
import random
import time

random.seed(7)
while True:
    time.sleep(330)
    rows = []
    for _ in range(900):
        rows.extend((random.random(), str(random.random())) for _ in range(1200))
        time.sleep(0.1)
    rows.sort()
    del rows

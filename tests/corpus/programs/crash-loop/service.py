"""A service that keeps 6 KB of each of its fifty jobs a second (leaks), or forgets them and ends of itself after minutes (ends)."""
import random
import sys
import time

leaks = sys.argv[1] == "leaks"
end = time.monotonic() + random.uniform(150, 400)
kept = [bytearray(4096) for _ in range(2500)]
while leaks or time.monotonic() < end:
    job = bytearray(random.randrange(4000, 8000))
    if leaks:
        kept.append(job)
    time.sleep(0.02)
sys.exit(1)

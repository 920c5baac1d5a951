"""Looks at the headers of requests the way a proxy does: every name becomes an istr, for case-blind comparison.

From 6.3.0 to 6.3.2 an istr that is made is never freed. A bounded cache of recent sessions warms up in the first minute.
"""
import collections
import time

from multidict import CIMultiDict, istr

sessions = collections.OrderedDict()
number = 0
while True:
    for _ in range(100):
        number += 1
        headers = CIMultiDict({f"X-Trace-{part}": f"{number}-{part}" for part in range(12)})
        headers["Host"] = "localhost"
        seen = [istr(name) for name in headers.keys()]
        sessions[number] = (headers.get("host"), len(seen))
        if len(sessions) > 20_000:
            sessions.popitem(last=False)
    time.sleep(0.25)

"""An application that keeps 8 KB of each request in the worker that answers it."""
KEPT = []


def app(environ, start_response):
    KEPT.append(bytearray(8000))
    start_response("200 OK", [("Content-Length", "3")])
    return [b"ok\n"]

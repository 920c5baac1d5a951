"""A Python server with a thread a connection and a bounded cache of pages that fills in the first minutes.

Argument: the port.
"""
import functools
import http.server
import sys


@functools.lru_cache(maxsize=6000)
def page(path):
    return "\n".join(f"{path} row {row}" for row in range(60)).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else a header and its page are two packets, and the second waits 40 ms for the first to be acknowledged.
    disable_nagle_algorithm = True

    def do_GET(self):
        body = page(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()

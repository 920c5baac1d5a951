#!/usr/bin/env python3
"""Cordons this Kubernetes node when Spillway requests a drain, and uncordons it when Spillway
requests its end.

It runs on each node (see cordon.yaml), listens on loopback, and takes the webhook of [act.drain]:
CloudEvents, signed as in Standard Webhooks 1.0. It needs only Python's standard library.

It only cordons: no new pods are scheduled here, and none are evicted. To evict pods too, add
`pods/eviction` (create) and `pods` (list) to the ClusterRole, and post an Eviction for each pod of
the node after `cordon`; disruption budgets apply then.

A node that it cordoned has the annotation below. A node that somebody else cordoned is refused
(409), and never uncordoned. Replies: 2xx granted, 400 and 409 refused, 401 wrong or missing
signature, 503 try again. Each request is carried out once: a retry with the same webhook-id gets
the same reply. Replies to requests with a valid signature have their webhook-id as a header:
without it a 2xx grants no drain.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import signal
import ssl
import sys
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Annotation with the webhook-id of the drain for which the node was cordoned.
MARK = "spillway.io/cordoned-by"
# Maximum difference between the sender's clock and this one, as in Standard Webhooks.
TOLERANCE_SECS = 300
BODY_BYTES_MAX = 1 << 20
# The agent waits 10 s for a reply.
API_WITHIN_SECS = 3
# Number of attempts if the node is changed by others meanwhile, before the agent has to retry.
ATTEMPTS = 3
# Number of remembered replies: some hours of an agent that flaps.
ANSWERS_MAX = 256

NODE = os.environ.get("NODE_NAME", "")
LISTEN = os.environ.get("LISTEN", "127.0.0.1:9648")
KEYS_FILE = os.environ.get("KEYS_FILE", "/etc/spillway-drain/keys")
ACCOUNT_DIR = os.environ.get("ACCOUNT_DIR", "/var/run/secrets/kubernetes.io/serviceaccount")
API_HOST = os.environ.get("KUBERNETES_SERVICE_HOST", "")
API_PORT = int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))


class Answer(Exception):
    """A reply: a status and a sentence."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Changed(Exception):
    """The node was changed after it was read."""


def verify(headers, body):
    """Returns the webhook-id of a recent request that is signed by one of the keys."""
    identity, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not identity or not sent.isascii() or not sent.isdigit():
        raise Answer(400, "no webhook-id, or no webhook-timestamp")
    if abs(time.time() - int(sent)) > TOLERANCE_SECS:
        raise Answer(401, f"the webhook-timestamp is more than {TOLERANCE_SECS} s from this node's clock")
    signed = b".".join([identity.encode(), sent.encode(), body])
    # Read each time: keys are replaced while this runs.
    with open(KEYS_FILE, encoding="ascii") as file:
        keys = [base64.b64decode(line.strip().removeprefix("whsec_"), validate=True) for line in file if line.strip()]
    if not keys or not all(24 <= len(key) <= 64 for key in keys):
        raise Answer(503, f"{KEYS_FILE} is empty or has a line that is not a key")
    theirs = [one.removeprefix("v1,") for one in headers.get("webhook-signature", "").split() if one.startswith("v1,")]
    for key in keys:
        ours = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        if any(hmac.compare_digest(ours.encode(), one.encode()) for one in theirs):
            return identity
    raise Answer(401, "no webhook-signature matches a key of this receiver")


def api(method, body=None):
    """Reads this node from the API, or changes it by a merge patch. Returns the node."""
    # Read each time: the kubelet replaces it.
    with open(f"{ACCOUNT_DIR}/token", encoding="ascii") as file:
        headers = {"Authorization": f"Bearer {file.read().strip()}", "Accept": "application/json"}
    if body is not None:
        body = json.dumps(body)
        headers["Content-Type"] = "application/merge-patch+json"
    trust = ssl.create_default_context(cafile=f"{ACCOUNT_DIR}/ca.crt")
    # Since 3.13 Python requires more of certificates than those of many clusters have; signature and
    # name are still checked.
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    connection = http.client.HTTPSConnection(API_HOST, API_PORT, timeout=API_WITHIN_SECS, context=trust)
    try:
        connection.request(method, f"/api/v1/nodes/{NODE}", body, headers)
        answer = connection.getresponse()
        said = json.loads(answer.read(BODY_BYTES_MAX))
    finally:
        connection.close()
    if answer.status == 409:
        raise Changed(said["message"])
    if answer.status != 200:
        raise Answer(503, f"the Kubernetes API answered {answer.status}: {said['message']}")
    return said


def change(node, unschedulable, mark):
    """Cordons or uncordons, unless the node was changed since it was read. A mark of None is removed."""
    version = node["metadata"]["resourceVersion"]
    patch = {"metadata": {"resourceVersion": version, "annotations": {MARK: mark}}}
    if unschedulable is not None:
        patch["spec"] = {"unschedulable": unschedulable}
    api("PATCH", patch)


def cordon(node, identity):
    """Stops new pods from being scheduled here."""
    mark, cordoned = state(node)
    if cordoned and mark is None:
        raise Answer(409, f"{NODE} is cordoned already, and not by Spillway")
    if not cordoned:
        change(node, True, identity)
    return f"{NODE} is cordoned"


def uncordon(node, _identity):
    """Lets pods be scheduled here again, if Spillway cordoned the node."""
    mark, cordoned = state(node)
    if mark is None and cordoned:
        raise Answer(409, f"{NODE} is cordoned, and not by Spillway")
    if mark is not None:
        # A node that was uncordoned by hand meanwhile stays so.
        change(node, False if cordoned else None, None)
    return f"{NODE} is not cordoned"


def state(node):
    """Returns the mark, if there is one, and whether the node is cordoned."""
    return (node["metadata"].get("annotations") or {}).get(MARK), bool(node["spec"].get("unschedulable"))


ASKS = {"io.spillway.node.drain.requested": cordon, "io.spillway.node.undrain.requested": uncordon}


def carry_out(identity, body):
    """Carries out a request."""
    try:
        ask = ASKS[json.loads(body)["type"]]
    except (ValueError, TypeError, KeyError):
        raise Answer(400, "the event requests neither a drain nor an undrain") from None
    for _ in range(ATTEMPTS):
        try:
            return ask(api("GET"), identity)
        except Changed as changed:
            last = changed
    raise Answer(503, f"the Kubernetes API refused {ATTEMPTS} times: {last}")


class Receiver(BaseHTTPRequestHandler):
    """Takes requests, one at a time."""

    timeout = 10
    one_at_a_time = threading.Lock()
    answers = OrderedDict()

    def do_GET(self):
        """Answers probes."""
        self.answer(200 if self.path == "/healthz" else 404, "")

    def do_POST(self):
        """Verifies a request, carries it out, and remembers the reply."""
        identity = None
        try:
            length = self.headers.get("content-length", "")
            if not length.isascii() or not length.isdigit() or int(length) > BODY_BYTES_MAX:
                raise Answer(413, f"no content-length, or one above {BODY_BYTES_MAX}")
            body = self.rfile.read(int(length))
            identity = verify(self.headers, body)
            with self.one_at_a_time:
                status, text = self.answers.get(identity) or self.once(identity, body)
        except Answer as answer:
            status, text = answer.status, str(answer)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            # The API or a file cannot be read, or has unexpected contents.
            status, text = 503, f"{type(error).__name__}: {error}"
        print(f"{self.headers.get('webhook-id', '-')} {status} {text}", file=sys.stderr, flush=True)
        self.answer(status, text, identity)

    def once(self, identity, body):
        """Carries out a request, and remembers the reply if it is final."""
        try:
            status, text = 200, carry_out(identity, body)
        except Answer as answer:
            status, text = answer.status, str(answer)
        if status != 503:
            self.answers[identity] = status, text
            while len(self.answers) > ANSWERS_MAX:
                self.answers.popitem(last=False)
        return status, text

    def answer(self, status, text, identity=None):
        """Sends a reply of one line, with the identity of the verified request."""
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if identity is not None:
            self.send_header("webhook-id", identity)
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_):
        """Logs nothing: replies are logged with their reasons."""


def main():
    """Serves until it is stopped."""
    if not re.fullmatch("[a-z0-9.-]+", NODE):
        sys.exit("NODE_NAME is not the name of a node\n  hint: spec.nodeName by the downward API, as in cordon.yaml")
    # Otherwise the signal does not end the first process of a container.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    host, _, port = LISTEN.rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Receiver)
    server.daemon_threads = True
    print(f"cordons {NODE} for Spillway, listens on {host}:{server.server_address[1]}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

"""A process that answers like an SGLang engine as far as the supervisor and the router ask.

python fake_engine.py ROLE PORT BOOTSTRAP_PORT [--start-s S] [--says-role ROLE] [--never-ready]
"""

import argparse
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

parser = argparse.ArgumentParser()
parser.add_argument("role")
parser.add_argument("port", type=int)
parser.add_argument("bootstrap_port", type=int)
parser.add_argument("--start-s", type=float, default=0.0)
parser.add_argument("--says-role", default="")
parser.add_argument("--never-ready", action="store_true")
options = parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path in ("/health", "/ready"):
            self.answer(503 if options.never_ready else 200, {})
        elif path in ("/model_info", "/server_info"):
            mode = options.says_role or options.role
            self.answer(200, {"disaggregation_mode": mode, "model_path": "fake"})
        elif path == "/route":
            self.answer(200, {"prefill_http_port": options.port})
        elif path == "/v1/loads":
            self.answer(200, {"loads": [{"num_running_reqs": 0, "num_waiting_reqs": 0}]})
        else:
            self.answer(404, {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not asked.get("stream"):
            self.answer(200, {"text": "x", "output_ids": [1], "meta_info": {}})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(b'data: {"text": "x", "meta_info": {}}\n\ndata: [DONE]\n\n')
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


sys.stdout.write("Load weight begin. avail mem=1.00 GB\n")
sys.stdout.flush()
time.sleep(options.start_s)
sys.stdout.write("Load weight end. elapsed=0.1 s\n")
if options.role == "prefill":
    registry = ThreadingHTTPServer(("127.0.0.1", options.bootstrap_port), Handler)
    threading.Thread(target=registry.serve_forever, daemon=True).start()
server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
sys.stdout.write("The server is fired up and ready to roll!\n")
sys.stdout.flush()
server.serve_forever()

"""moto's server on a free port, which it prints; it ends with its standard input, and so with whoever started it.

With `strict` it refuses every request to SQS that the service's published model does not allow: moto itself is more lenient.
With `atomic` it serves one request after another: of two conditional writes at once, moto lets both take effect.
"""

import io
import json
import logging
import os
import sys
import threading

from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


def end_with_stdin():
    sys.stdin.buffer.read()
    os._exit(0)


class Strict:
    """An application before which each request is held to the model."""

    def __init__(self, application):
        self.application = application
        self.model = ServiceModel(Loader().load_service_model("sqs", "service-2"))

    def __call__(self, environ, start_response):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        operation = environ.get("HTTP_X_AMZ_TARGET", "").removeprefix("AmazonSQS.")
        shape = self.model.operation_model(operation).input_shape
        report = ParamValidator().validate(json.loads(body), shape)
        if not report.has_errors():
            return self.application(environ, start_response)
        wrong = f"{operation}: {report.generate_report()}: {body.decode()}"
        print(f"SQS was sent what it would refuse: {wrong}", file=sys.stderr, flush=True)
        start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.0")])
        return [json.dumps({"__type": "InvalidRequest", "message": wrong}).encode()]


class Atomic:
    """An application that has one request at a time."""

    def __init__(self, application):
        self.application = application
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        with self.lock:
            return list(self.application(environ, start_response))


threading.Thread(target=end_with_stdin, daemon=True).start()
logging.getLogger("werkzeug").setLevel(logging.ERROR)
application = DomainDispatcherApplication(create_backend_app)
if "strict" in sys.argv[1:]:
    application = Strict(application)
if "atomic" in sys.argv[1:]:
    application = Atomic(application)
server = make_server("127.0.0.1", 0, application, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()

"""`serve run` on a port: `python run.py 9000`."""

import sys
from threading import Event

from ray import serve
from server import app

serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(app)
Event().wait()

"""A Gradio app that starts itself. Start it with `python launch.py`."""

import os

import gradio as gr
from starlette.middleware import Middleware

from hourpass import Guard

guard = Guard(os.environ["HOURPASS_URL"])


def greet(greeting: str, request: gr.Request) -> str:
    return f"{greeting}, {request.headers['x-auth-username']}"


demo = gr.Interface(greet, "text", "text", api_name="greet")
# launch() calls this path of its own server once, without a token.
protected = Middleware(guard.middleware, public=["/gradio_api/startup-events"])
demo.launch(app_kwargs={"middleware": [protected]}, ssr_mode=False)

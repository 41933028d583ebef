"""A Gradio app mounted in a FastAPI app. Start it with `uvicorn server:app --port 9000`."""

import os

import gradio as gr
from fastapi import FastAPI

from hourpass import Guard

guard = Guard(os.environ["HOURPASS_URL"])
app = FastAPI()


@app.get("/health")
def health() -> str:
    return "ok"


def greet(greeting: str, request: gr.Request) -> str:
    return f"{greeting}, {request.headers['x-auth-username']}"


demo = gr.Interface(greet, "text", "text", api_name="greet")
gr.mount_gradio_app(app, demo, path="/demo")
guard.protect(app, public=["/health"])

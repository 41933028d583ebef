"""A Streamlit app. Start it with `uvicorn server:app --port 9000`."""

import os

from starlette.middleware import Middleware
from streamlit.starlette import App

from hourpass import Guard

guard = Guard(os.environ["HOURPASS_URL"])
protected = Middleware(guard.middleware, public=["/_stcore/health"])
app = App("page.py", middleware=[protected])

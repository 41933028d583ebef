# Two stages, so that the image carries neither pip's leftovers nor a rebuild of every dependency
# when only the service's own code has changed.
# The tag moves with each release of Python or Debian. To build on a known image, name its digest:
# docker build -t hourpass --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:… .
ARG PYTHON_IMAGE=python:3.13-slim
FROM ${PYTHON_IMAGE} AS dependencies
COPY requirements.txt /tmp/
# Bytecode is compiled here and below, because the service cannot write it: its file system is
# read-only. Unchecked, so that the files' times do not matter.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --no-compile --require-hashes -r /tmp/requirements.txt \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${PYTHON_IMAGE}
# A fixed number, so that whoever mounts a directory at /data knows whom to give it to.
RUN groupadd --gid 10001 hourpass \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent hourpass \
    && install -d -o 10001 -g 10001 -m 700 /data
# The base image has no bytecode of the standard library.
RUN python -m compileall -q --invalidation-mode unchecked-hash \
    -x '/(test|tests|idlelib|lib2to3|tkinter|turtledemo|site-packages)/' /usr/local/lib/python3.*
COPY --from=dependencies /opt/venv /opt/venv
WORKDIR /srv/hourpass
COPY pyproject.toml README.md LICENSE ./
COPY guard guard
COPY alembic alembic
COPY app app
RUN /opt/venv/bin/pip install --no-cache-dir --no-compile --no-deps --no-build-isolation ./guard . \
    && python -m compileall -q --invalidation-mode unchecked-hash \
        /opt/venv/lib/python3.*/site-packages/app /opt/venv/lib/python3.*/site-packages/hourpass
# Relative paths in settings, such as that of the SQLite database, are relative to HOURPASS_HOME.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOURPASS_HOME=/data

USER 10001:10001
VOLUME /data
EXPOSE 8000
# http.client rather than urllib.request, which would ask the proxy that some hosts configure.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from http.client import HTTPConnection; c = HTTPConnection('127.0.0.1', 8000, timeout=4); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
# Options outrank HOST and PORT, which on the outside say where the container is published.
CMD ["hourpass", "serve", "--host", "0.0.0.0", "--port", "8000"]

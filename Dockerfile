# One image for web, worker, bank and migrate; docker-compose.yml says which command each runs.
FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
COPY requirements.txt /build/
RUN /venv/bin/python -m pip install --require-hashes -r /build/requirements.txt
WORKDIR /app
COPY manage.py Procfile ./
COPY project project
COPY tasks_demo tasks_demo
# The settings want a state folder and make a key in it; neither goes into the image.
RUN STATE_DIR=/build/state /venv/bin/python manage.py collectstatic --noinput --verbosity 0 \
    && /venv/bin/python -m compileall -q project tasks_demo

FROM python:3.11.13-slim-bookworm
RUN groupadd --system --gid 10001 app && useradd --system --uid 10001 --gid app --no-create-home --home-dir /nonexistent app
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
# /tmp is the only place that is written; docker-compose.yml mounts a tmpfs there.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 STATE_DIR=/tmp/state HOME=/tmp
USER 10001:10001
EXPOSE 8000
CMD ["gunicorn", "project.wsgi", "--bind", "0.0.0.0:8000", "--threads", "4", "--worker-tmp-dir", "/dev/shm", "--no-control-socket"]

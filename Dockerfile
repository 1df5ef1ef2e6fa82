# syntax=docker/dockerfile:1
# Pin the base by digest with --build-arg BASE=python:3.13-slim@sha256:…
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /opt/outcome-exporter
RUN python -m venv venv
COPY requirements.run.lock ./
# Only wheels with a known hash, and only what runs: tests and linters stay out.
RUN venv/bin/pip install --no-cache-dir --require-hashes --only-binary :all: \
      --requirement requirements.run.lock
COPY exporter exporter
# Compiled for any processor of the architecture, so that the first start does not compile.
ENV PYTHONPATH=/opt/outcome-exporter/exporter \
    NUMBA_CPU_NAME=generic \
    NUMBA_CACHE_DIR=/opt/outcome-exporter/jit
RUN venv/bin/python -c 'from outcome_exporter.config import Config; from outcome_exporter.warmup import warm_up; warm_up(Config())'

FROM ${BASE}
LABEL org.opencontainers.image.title="outcome-exporter" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/outcome-exporter /opt/outcome-exporter
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/outcome-exporter
RUN install -d -o 65532 -g 65532 /var/lib/outcome-exporter
ENV PYTHONPATH=/opt/outcome-exporter/exporter \
    PYTHONUNBUFFERED=1 \
    NUMBA_CPU_NAME=generic
USER 65532:65532
WORKDIR /var/lib/outcome-exporter
VOLUME /var/lib/outcome-exporter
EXPOSE 4317 4318 9464
# Where the configuration has metrics.tls or another port: --env HEALTH_URL=https://127.0.0.1:PORT/healthz
# Whoever asks for certificates of clients (metrics.tls.client_ca) needs --no-healthcheck.
ENV HEALTH_URL=http://127.0.0.1:9464/healthz
HEALTHCHECK --start-period=30m --interval=10s --timeout=5s CMD \
  ["/opt/outcome-exporter/venv/bin/python", "-c", "import os, ssl, urllib.request as r; r.build_opener(r.ProxyHandler({}), r.HTTPSHandler(context=ssl._create_unverified_context())).open(os.environ['HEALTH_URL'], timeout=4)"]
ENTRYPOINT ["outcome-exporter"]
CMD ["serve", "--config", "/etc/outcome-exporter/config.yaml"]

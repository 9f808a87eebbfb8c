# The service: ONNX Runtime and FastAPI, no torch, no compiler, no pip.
#
#   docker build --target service --tag pnag:0.1.0 .
#   docker build --target trainer --tag pnag-trainer:0.1.0 .      torch included, about 2 GB
#
# The base must have Python 3.11 as `python`; both stages use the same one, so that the environment made in the first
# runs in the second.
ARG BASE=python:3.11-slim
ARG VERSION=0.1.0

FROM ${BASE} AS build
WORKDIR /build
COPY requirements/serve.txt requirements/serve.txt
# Its own environment, and pip stays outside of it. Every file is checked against the hashes in the list.
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --disable-pip-version-check --no-cache-dir --python /opt/venv/bin/python \
       install --no-deps --no-compile --require-hashes --requirement requirements/serve.txt \
    && find /opt/venv -type d \( -name tests -o -name test \) -prune -exec rm -rf {} +
COPY LICENSE /opt/venv/lib/python3.11/site-packages/
COPY pnag/*.py /opt/venv/lib/python3.11/site-packages/pnag/
COPY cli /opt/venv/lib/python3.11/site-packages/pnag/cli
COPY models /opt/venv/lib/python3.11/site-packages/pnag/models
COPY service /opt/venv/lib/python3.11/site-packages/pnag/service
COPY deploy/image/pnag deploy/image/install-bundle /opt/venv/bin/
ARG VERSION
# The metadata of an installed package: training writes the version into its bundles.
RUN chmod 755 /opt/venv/bin/pnag /opt/venv/bin/install-bundle \
    && metadata="/opt/venv/lib/python3.11/site-packages/pnag-$VERSION.dist-info" \
    && mkdir "$metadata" \
    && printf 'Metadata-Version: 2.1\nName: pnag\nVersion: %s\n' "$VERSION" >"$metadata/METADATA"

FROM build AS slim
# What only compilers, type checkers and makers of models read; training quantises, serving does not.
# Compiled now, because nothing can be written later: it halves the time to start. Checked by hash, so that it does not
# matter when files were copied.
RUN find /opt/venv -type f \( -name '*.py[ix]' -o -name '*.pxd' -o -name '*.[ach]' \) -delete \
    && for unused in backend datasets quantization tools transformers; do \
         rm -r "/opt/venv/lib/python3.11/site-packages/onnxruntime/$unused"; done \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib

FROM ${BASE} AS runtime
ARG VERSION
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PNAG" \
      org.opencontainers.image.description="A latency budget goes in, the best network that keeps it comes out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# /bundles is for those that come later; as a volume it takes over this owner.
RUN install -d -o 10001 -g 10001 /bundles
COPY bundles /app/bundles
COPY deploy/image/healthcheck.py /app/healthcheck.py
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    PNAG_HOST=0.0.0.0 \
    PNAG_PORT=8000 \
    PNAG_LOG_FORMAT=json \
    PNAG_BUNDLES=/app/bundles,/bundles
WORKDIR /app
# A number, not a name: Kubernetes cannot tell whether a name is root.
USER 10001:10001
# Exec form: the service is process 1, gets SIGTERM itself, and drains.
ENTRYPOINT ["/opt/venv/bin/python", "-m", "pnag"]

FROM runtime AS service
COPY --from=slim /opt/venv /opt/venv
EXPOSE 8000
# -I -S: an interpreter that looks at nothing; it runs every ten seconds beside the service.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["/opt/venv/bin/python", "-I", "-S", "/app/healthcheck.py"]
CMD ["serve"]

FROM build AS trainer-build
COPY requirements/train.txt requirements/torch.txt requirements/
# Which wheel of torch this becomes depends on where yours comes from: see CONTRIBUTING.md.
ARG TORCH_FLAGS=""
# hadolint ignore=SC2086
RUN python -m pip --disable-pip-version-check --no-cache-dir --python /opt/venv/bin/python \
      install --no-deps --require-hashes --requirement requirements/train.txt \
    && python -m pip --disable-pip-version-check --no-cache-dir --python /opt/venv/bin/python \
      install ${TORCH_FLAGS} --requirement requirements/torch.txt
COPY trainer /opt/venv/lib/python3.11/site-packages/pnag/trainer

FROM runtime AS trainer
COPY --from=trainer-build /opt/venv /opt/venv
COPY latency_tables /app/latency_tables
# torch and matplotlib want to write somewhere.
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
CMD ["--help"]

# What `docker build .` makes.
FROM service

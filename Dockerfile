# One image for three roles: a step of a Kubeflow pipeline, the command `tfslim`, and a worker of Beam (docs/image.md).
# Build it with `python -m components.image build`, or with any engine alone: docker build -t tfslim:0.1.0 .
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm
ARG GO_IMAGE=docker.io/library/golang:1.26-bookworm

# Beam's entrypoint, built from the module that the one in Beam's own images comes of.
FROM ${GO_IMAGE} AS boot
ARG BEAM=2.77.0
ARG GOPROXY
ARG GOSUMDB
RUN --mount=type=secret,id=ca \
    if [ -f /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi \
    && export CGO_ENABLED=0 GOTOOLCHAIN=local GOPATH=/go GOBIN=/out GOCACHE=/tmp/go \
    && /usr/local/go/bin/go install -trimpath -ldflags='-s -w' github.com/apache/beam/sdks/v2/python/container@v${BEAM} \
    && mv /out/container /out/boot \
    && cp /go/pkg/mod/github.com/apache/beam/sdks/v2@v${BEAM}/LICENSE /out/

# Every package at the version and with the hash of the lock file; what has no wheel is built with locked tools, too.
FROM ${PYTHON_IMAGE} AS packages
RUN apt-get update && apt-get install --yes --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
COPY components/image/build.lock components/image/packages.lock ./
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip,target=/etc/pip.conf \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi \
    && python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes --requirement build.lock \
    && /opt/build/bin/pip wheel --no-build-isolation --require-hashes --requirement packages.lock --wheel-dir /wheels \
    && python3 -m venv --without-pip /opt/tfslim \
    && /opt/build/bin/pip --python /opt/tfslim/bin/python install --no-compile --no-index --no-deps /wheels/*.whl \
    && rm -rf /wheels
COPY components/image/prune.py ./
RUN /opt/tfslim/bin/python prune.py /opt/tfslim/lib/python3.*/site-packages

FROM packages AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY tfslim_core tfslim_core
RUN /opt/build/bin/pip wheel --no-index --no-build-isolation --no-deps --wheel-dir /dist . \
    && /opt/build/bin/pip --python /opt/tfslim/bin/python install --no-compile --no-index --no-deps --prefix /own /dist/*.whl \
    && /opt/tfslim/bin/python -m compileall -q /own
# A checkout may be its owner's alone to read; the image's user is another.
COPY components /checkout/components
COPY pipelines /checkout/pipelines
RUN chmod -R a+rX /checkout

FROM ${PYTHON_IMAGE} AS image
LABEL org.opencontainers.image.title="tfslim" \
      org.opencontainers.image.description="Slims TensorFlow SavedModels: component of Kubeflow, command, worker of Beam" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
# Nobody here becomes root again; and a uid that only the cluster knows, with group 0, may do what uid 1000 may.
RUN useradd --uid 1000 --gid 0 --create-home --home-dir /home/tfslim tfslim \
    && chmod 0775 /home/tfslim \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=boot /out /opt/apache/beam
COPY --from=packages /opt/tfslim /opt/tfslim
COPY --from=wheel /own /opt/tfslim
COPY --chmod=0755 components/image/entrypoint.sh /usr/local/bin/tfslim-entrypoint
COPY --from=wheel /checkout /opt/tfslim-checkout
# Without RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT Beam would make an environment of its own beside this one.
ENV PATH=/opt/tfslim/bin:$PATH PYTHONPATH=/opt/tfslim-checkout PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/home/tfslim USER=tfslim RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
WORKDIR /home/tfslim
ENTRYPOINT ["tfslim-entrypoint"]
CMD ["tfslim", "--help"]

# `--target dataflow`: the same files, as Dataflow starts its workers: Beam's entrypoint itself, and root, who owns the
# directories that Dataflow mounts into the container.
FROM image AS dataflow
USER 0
ENTRYPOINT ["/opt/apache/beam/boot"]
CMD []

FROM image
USER 1000:0

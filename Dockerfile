# tfslim's image: the command and the pipelines' components. `--target worker` makes the one for the validation job's
# workers on Dataflow, or wherever Beam starts workers in containers: the same with Beam's entrypoint.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/tfslim
WORKDIR /src
COPY requirements.lock ./
RUN /opt/tfslim/bin/pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY tfslim_core tfslim_core
RUN /opt/tfslim/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm AS runtime
RUN useradd --create-home --uid 1000 tfslim
COPY --from=build /opt/tfslim /opt/tfslim
COPY components /opt/tfslim-checkout/components
COPY pipelines /opt/tfslim-checkout/pipelines
ENV PATH=/opt/tfslim/bin:$PATH PYTHONPATH=/opt/tfslim-checkout PYTHONUNBUFFERED=1

FROM runtime AS worker
COPY --from=apache/beam_python3.11_sdk:2.77.0 /opt/apache/beam /opt/apache/beam
# Beam's boot would otherwise make an environment of its own beside this one.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
ENTRYPOINT ["/opt/apache/beam/boot"]

FROM runtime
USER tfslim
WORKDIR /home/tfslim
CMD ["tfslim", "--help"]

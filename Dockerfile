# tfslim's image: the command, the pipelines' components, and the workers of the validation job.
FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/tfslim
WORKDIR /src
COPY requirements.lock ./
RUN /opt/tfslim/bin/pip install --require-hashes --requirement requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY tfslim_core tfslim_core
RUN /opt/tfslim/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 tfslim
COPY --from=build /opt/tfslim /opt/tfslim
COPY components /opt/tfslim-checkout/components
COPY pipelines /opt/tfslim-checkout/pipelines
ENV PATH=/opt/tfslim/bin:$PATH PYTHONPATH=/opt/tfslim-checkout PYTHONUNBUFFERED=1
USER tfslim
WORKDIR /home/tfslim
CMD ["tfslim", "--help"]

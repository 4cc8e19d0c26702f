# The backend, the learning loop's processes and MLflow, in one image; docs/docker.md tells how to run it.
# On a CPU: docker build -t ebseg:cpu .    On NVIDIA GPUs: docker build --build-arg DEVICE=cuda -t ebseg:cuda .
FROM python:3.11-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/source

# First what is large and changes seldom. PyTorch's own index has the builds without CUDA, a tenth of the size,
# but not all versions of what they need: that comes from PyPI with the rest.
COPY constraints.txt ./
ARG DEVICE=cpu
RUN case "$DEVICE" in \
        cpu) set -- --no-deps --index-url https://download.pytorch.org/whl/cpu ;; \
        cuda) set -- ;; \
        *) echo "DEVICE is '$DEVICE': it must be cpu or cuda" >&2; exit 1 ;; \
    esac; \
    pip install "$@" --constraint constraints.txt torch torchvision

COPY pyproject.toml README.md LICENSE ./
COPY ebseg ebseg
COPY training training
COPY backend backend
RUN pip install --constraint constraints.txt .


FROM python:3.11-slim-bookworm

# All that is kept is below /data; the rest of the image is never written to, but for /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    EBSEG_HOST=0.0.0.0 \
    EBSEG_PORT=9090 \
    EBSEG_HOME=/data \
    HF_HOME=/data/huggingface \
    XDG_CACHE_HOME=/data/cache

# A volume that is new takes its owner from this folder.
RUN useradd --uid 1000 --home-dir /data --no-create-home ebseg \
    && install --directory --owner ebseg --group ebseg /data
COPY --from=build /opt/venv /opt/venv

USER 1000
WORKDIR /data
VOLUME /data
EXPOSE 9090
HEALTHCHECK --interval=30s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/health', timeout=2)"]
CMD ["ebseg", "serve"]

# The Label Studio backend on a CPU. Build: docker build -t ebseg .
# Run: docker run -p 9090:9090 -e LABEL_STUDIO_URL=http://host.docker.internal:8080 -e LABEL_STUDIO_API_KEY=... ebseg
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    EBSEG_HOST=0.0.0.0 \
    EBSEG_PORT=9090

RUN useradd --create-home --uid 1000 ebseg
WORKDIR /opt/ebseg

# First what changes seldom: PyTorch without CUDA is a tenth of the size.
COPY constraints.txt ./
RUN pip install --index-url https://download.pytorch.org/whl/cpu --constraint constraints.txt torch torchvision

COPY pyproject.toml README.md LICENSE ./
COPY ebseg ebseg
COPY training training
COPY backend backend
RUN pip install --constraint constraints.txt .

USER 1000
EXPOSE 9090
HEALTHCHECK --interval=30s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/health', timeout=2)"]
CMD ["ebseg", "serve"]

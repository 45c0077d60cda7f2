# The command line in a container (Qt and napari are left out).
#   docker build -t prosma .                              for CPUs
#   docker build -t prosma:cuda --build-arg TORCH=cu130 . for NVIDIA GPUs
#   docker run --rm -v "$PWD:/data" prosma segment scan.nii.gz --model hippocampus-mri --out results
#   docker run --rm --gpus all -v "$PWD:/data" prosma:cuda doctor
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG TORCH=cpu
# The kernels for NVIDIA GPUs are compiled on first use, which needs a C compiler.
RUN if [ "$TORCH" != cpu ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi

WORKDIR /opt/napari-prosma
COPY constraints.txt ./
RUN pip install --no-cache-dir torch==2.13.0 --index-url https://download.pytorch.org/whl/${TORCH}
COPY pyproject.toml README.md LICENSE ./
COPY docs ./docs
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt ".[medical,remote]"

RUN useradd --create-home --uid 1000 prosma
USER 1000
WORKDIR /data
ENTRYPOINT ["prosma"]
CMD ["--help"]

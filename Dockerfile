# wsiproc in a container; docs/install.md says how to use it.
FROM python:3.11-slim

# Where PyTorch comes from: the build with CUDA, from the usual place, unless the index of another build is given.
ARG TORCH_INDEX=

WORKDIR /src
COPY constraints.txt ./
# --no-deps: what PyTorch needs comes with the rest, from the usual place.
RUN pip install --no-cache-dir --no-deps ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY wsiproc wsiproc
RUN pip install --no-cache-dir -c constraints.txt .

# Any user may run it (docker run --user): what is compiled on the way goes where all may write.
ENV HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba
RUN useradd --no-create-home wsiproc
USER wsiproc
WORKDIR /data
ENTRYPOINT ["wsiproc"]
CMD ["--help"]

# Training on a GPU. The host needs its driver and the NVIDIA container toolkit; the
# CUDA libraries come with torch.
#
#   docker build -t dreamerv2 .
#   docker run -it --rm --gpus all -v ~/logdir:/logdir dreamerv2
#   docker run -it --rm --gpus all -v ~/logdir:/logdir dreamerv2 \
#     --configs defaults atari --task atari_breakout --logdir /logdir/breakout/1

FROM python:3.11-slim

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1

# Compiling the training step (jit) needs a C++ compiler.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /app

# The slow part first, so that a change of the code does not repeat it.
COPY requirements.txt ./
RUN pip install -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY dreamerv2 ./dreamerv2
COPY scores ./scores
RUN pip install --no-deps .

ENTRYPOINT ["dreamerv2-train"]
CMD ["--configs", "defaults", "atari", "--task", "atari_pong", \
     "--logdir", "/logdir/atari_pong/dreamerv2/1"]

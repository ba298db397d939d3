# A server for an exported ONNX model, without PyTorch:
#   cifar-lightning export --ckpt_path best.ckpt --output model.onnx
#   docker build -t cifar-lightning .
#   docker run -p 127.0.0.1:8000:8000 -e CIFAR_LIGHTNING_TOKEN -v "$PWD/model.onnx:/model.onnx:ro" cifar-lightning
# If other containers reach it by a name, allow that name: … cifar-lightning --model /model.onnx --allow_host NAME
FROM python:3.12-slim
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY configs /src/configs
COPY cifar_lightning /src/cifar_lightning
COPY configs /src/configs
RUN pip install --no-cache-dir -c /src/constraints.txt \
        onnxruntime numpy pillow fastapi fastapi-offline uvicorn python-multipart prometheus-client \
    && pip install --no-cache-dir --no-deps /src \
    && rm -r /src
USER nobody
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=5)"]
ENTRYPOINT ["cifar-lightning", "serve", "--host", "0.0.0.0"]
CMD ["--model", "/model.onnx"]

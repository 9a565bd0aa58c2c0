"""The service that one writes in Python: FastAPI and uvicorn in front of onnxruntime and OpenCV's detector.

    PEER_NETWORK=s128.onnx PEER_DETECTOR=yunet.onnx uvicorn python_service:app --workers 2

It computes what ours does: embeddings with those of the mirror images added, and faces found by a look at the
whole photo at ``SIDE`` pixels and a second one at each face. Each process computes on one thread beside its
event loop: more of them would only take the processor from each other. It is what ``server.py`` compares
with.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response

from pocketnet_fast.data.alignment import TEMPLATE, similarity_transform

SIDE = 256  # of the first look at a photo
AGAIN = 224  # of the second, at a face

app = FastAPI()
_computing = ThreadPoolExecutor(1)


def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        os.environ["PEER_NETWORK"], options, providers=["CPUExecutionProvider"]
    )


cv2.setNumThreads(1)
session = _session()
detector = cv2.FaceDetectorYN.create(os.environ["PEER_DETECTOR"], "", (SIDE, SIDE), 0.7, 0.3, 1000)


def embed(crops: np.ndarray) -> np.ndarray:
    """Unit embeddings, N x D float32, of uint8 N x 112 x 112 x 3 RGB crops."""
    both = np.concatenate([crops, crops[:, :, ::-1]])
    pixels = (both.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
    (rows,) = session.run(None, {session.get_inputs()[0].name: pixels})
    summed = rows[: len(crops)] + rows[len(crops) :]
    return summed / np.linalg.norm(summed, axis=1, keepdims=True)


def _rows(image: np.ndarray) -> np.ndarray:
    """What OpenCV's detector finds."""
    detector.setInputSize(image.shape[1::-1])
    found = detector.detect(image)[1]
    return np.zeros((0, 15), np.float32) if found is None else found


def faces(encoded: bytes) -> list[dict[str, Any]]:
    """The faces of an image file, with embeddings."""
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    scale = SIDE / max(image.shape[:2])
    found, crops = [], []
    for row in _rows(cv2.resize(image, None, fx=scale, fy=scale)) / scale:
        left, top, wide, high = row[:4]
        x, y = max(0, int(left - wide / 4)), max(0, int(top - high / 4))
        around = image[y : int(top + 1.25 * high), x : int(left + 1.25 * wide)]
        better = AGAIN / min(wide, high)
        again = _rows(cv2.resize(around, None, fx=better, fy=better))
        if not len(again):
            continue
        points = again[0, 4:14].reshape(5, 2) / better + (x, y)
        crops.append(cv2.warpAffine(image, similarity_transform(points, TEMPLATE), (112, 112))[..., ::-1])
        found.append({"box": row[:4].tolist(), "landmarks": points.tolist(), "score": float(again[0, 14])})
    if crops:
        for face, embedding in zip(found, embed(np.stack(crops)), strict=True):
            face["embedding"] = embedding.tolist()
    return found


@app.post("/crops")
async def post_crops(request: Request) -> Response:
    """Crops as raw bytes in, embeddings as raw float32 out."""
    crops = np.frombuffer(await request.body(), np.uint8).reshape(-1, 112, 112, 3)
    embeddings = await asyncio.get_running_loop().run_in_executor(_computing, embed, crops)
    return Response(embeddings.tobytes(), media_type="application/octet-stream")


@app.post("/photos")
async def post_photos(request: Request) -> dict[str, Any]:
    """An image file in, faces as JSON out."""
    encoded = await request.body()
    return {"faces": await asyncio.get_running_loop().run_in_executor(_computing, faces, encoded)}


@app.get("/ready")
async def ready() -> dict[str, bool]:
    """Whether a worker has started."""
    return {"ready": True}

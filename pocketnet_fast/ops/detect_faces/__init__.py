"""The operator that finds faces: ``pocketnet_fast::detect_faces``."""

from pocketnet_fast.ops.detect_faces.cpu import detect_faces as detect_faces

"""The operator that cuts aligned crops out of a photo: ``pocketnet_fast::align_faces``."""

from pocketnet_fast.ops.align_faces.cpu import align_faces as align_faces

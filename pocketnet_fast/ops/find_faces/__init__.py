"""The operator that finds the faces of photos, whatever their size and whichever way up they are:
``pocketnet_fast::find_faces``."""

from pocketnet_fast.ops.find_faces.cpu import find_faces as find_faces

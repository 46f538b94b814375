"""Small copies of the images that runs log, kept while somebody watches: a delivered file is here no more.

Pillow makes them, which MLflow installs with matplotlib; without it, only small images are shown.
"""

from __future__ import annotations

import posixpath
from base64 import b64encode
from collections.abc import Iterable
from importlib import import_module
from io import BytesIO
from pathlib import Path

from dbml_magics.common.log_records import logger

__all__ = ["Images", "Thumbnails"]

_log = logger(__name__)

_KEPT = 6  # images of a run: the last ones
_FILE_BYTES = 2_000_000  # of an image
_SHOWN_BYTES = 30_000  # of what is shown of it: a live view is sent anew with each update
_SIDE = 280  # pixels, at most: twice what a page gives it
_PIXELS = 40_000_000  # an image of more is not unpacked
_READERS = {
    ".png": ("PIL.PngImagePlugin", "PngImageFile", "image/png"),
    ".jpg": ("PIL.JpegImagePlugin", "JpegImageFile", "image/jpeg"),
    ".jpeg": ("PIL.JpegImagePlugin", "JpegImageFile", "image/jpeg"),
    ".gif": ("PIL.GifImagePlugin", "GifImageFile", "image/gif"),
}
"""Pillow's readers by themselves: ``Image.open`` warns of large images in the user's cell."""


class Images:
    """The last images of one run."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._shown: dict[str, tuple[bytes, str]] = {}

    def add(self, path: str, local: str) -> None:
        """Keep an image that is logged under a path; anything else is left alone."""
        if _suffix(path) not in _READERS:
            return
        try:
            file = Path(local)
            data = file.read_bytes() if file.stat().st_size <= _FILE_BYTES else b""
        except OSError:  # it is the logging's to say so
            return
        self._files.pop(path, None)  # the last one is the newest
        self._files[path] = data
        while len(self._files) > _KEPT:
            self._files.pop(next(iter(self._files)), None)

    def addresses(self) -> dict[str, str]:
        """Return {path: address of a small copy's data}, the newest first; each is made once."""
        before, self._shown = self._shown, {}
        for path, data in list(self._files.items()):
            made = before.get(path)
            self._shown[path] = made if made and made[0] is data else (data, _small(path, data))
        return {path: shown for path, (_, shown) in reversed(self._shown.items()) if shown}


class Thumbnails:
    """The images of the runs that are watched in this process."""

    def __init__(self) -> None:
        self._runs: dict[str, Images] = {}

    def of(self, run_id: str) -> Images:
        """Begin to keep a run's images, and return them as they come."""
        return self._runs.setdefault(run_id, Images())

    def forget(self, run_id: str) -> None:
        """Keep no more images of a run."""
        self._runs.pop(run_id, None)

    def note(self, run_id: str, files: Iterable[tuple[str, str]]) -> None:
        """Take down what a run logs: (path there, file here)."""
        images = self._runs.get(run_id)
        if images is not None:
            for path, local in files:
                images.add(path, local)


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _small(path: str, data: bytes) -> str:
    """Return the address of a small copy's data; empty where none can be made."""
    module, reader, kind = _READERS[_suffix(path)]
    if not data:
        return ""
    if len(data) > _SHOWN_BYTES:
        try:
            image = getattr(import_module(module), reader)(BytesIO(data))
            if image.width * image.height > _PIXELS:
                return ""
            image.draft("RGB", (_SIDE, _SIDE))  # a JPEG is unpacked no larger than is needed
            clear = "A" in image.getbands() or "transparency" in image.info
            small = image.convert("RGBA" if clear else "RGB")
            small.thumbnail((_SIDE, _SIDE))
            out = BytesIO()
            small.save(out, "PNG", optimize=True)
            if out.tell() > _SHOWN_BYTES:
                out = BytesIO()
                small.convert("RGB").save(out, "JPEG", quality=75)
                kind = "image/jpeg"
            else:
                kind = "image/png"
            data = out.getvalue()
        except Exception:  # no Pillow here, or no image: a view does without
            _log.debug("%s has no small copy", path, exc_info=True)
            return ""
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}" if len(data) <= _SHOWN_BYTES else ""

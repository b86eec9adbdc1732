"""Where photographs come from: `samples`, a folder, or an uncompressed `.tar`, listed without reading pixels."""

import dataclasses
import hashlib
import re
import tarfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from srgan_ray.errors import InputError

# Colour and grey photographs inside scikit-image's wheel; of its stereo pair only the left one.
SAMPLES = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Photograph:
    """One file of a source: `size` bytes at `offset` of `path` (a tar is read in place, never unpacked)."""

    name: str
    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The file's bytes."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    @property
    def breed(self) -> str:
        """The folder's name without Stanford Dogs' WordNet prefix: `n02085620-Chihuahua` gives `Chihuahua`."""
        return re.sub(r"^n\d{8}-", "", Path(self.name).parent.name)


def list_photographs(source: str, limit: int, seed: int) -> list[Photograph]:
    """The source's files in an order drawn from `seed` and their names; the first `limit` of them (0: all).

    The order mixes the breeds, does not depend on the file system, and is the order of the rows in the shards.
    Raises InputError for a source that is not there, not readable or empty.
    """
    photographs = sorted(_files(source), key=lambda photograph: _draw(seed, photograph.name))
    if not photographs:
        raise InputError(f"SOURCE {source} holds no file; wanted photographs")
    return photographs[:limit] if limit else photographs


def _draw(seed: int, name: str) -> tuple[bytes, str]:
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest(), name


def _files(source: str) -> Iterator[Photograph]:
    if source == "samples":
        return _samples()
    if source == "stanford-dogs":
        raise InputError(
            "SOURCE stanford-dogs: not yet downloaded by this version; fetch images.tar yourself "
            "(http://vision.stanford.edu/aditya86/ImageNetDogs/) and give its path as SOURCE"
        )
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.is_file() and path.suffix == ".tar":
        return _tar(path)
    found = "is no .tar file" if path.exists() else "does not exist"
    raise InputError(f"SOURCE {source} {found}; wanted `samples`, a folder, or a .tar of photographs")


def _samples() -> Iterator[Photograph]:
    folder = Path(str(files("skimage"))) / "data"
    for name in SAMPLES:
        yield Photograph(name, str(folder / name), 0, (folder / name).stat().st_size)


def _folder(folder: Path) -> Iterator[Photograph]:
    for path in folder.resolve().rglob("*"):
        if path.is_file():
            yield Photograph(str(path.relative_to(folder.resolve())), str(path), 0, path.stat().st_size)


def _tar(path: Path) -> Iterator[Photograph]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    yield Photograph(member.name, str(path.resolve()), member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"SOURCE {path} cannot be read as an uncompressed tar: {error}") from error

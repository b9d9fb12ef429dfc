"""Weight files of any kind as NumPy arrays."""

import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cxv_jax.errors import InputError, reason
from cxv_jax.machine import require_memory


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Read ``.npz``, ``.safetensors`` or ``.pt``/``.pth`` weights as NumPy arrays.

    ``.pt``/``.pth`` need torch and are read with ``weights_only=True``: no code in them runs.

    Raises:
      InputError: for a missing or unreadable file, an unknown ending, or torch not installed.
    """
    path = Path(path)
    if path.suffix not in READERS:
        raise InputError(f"{path}: unknown ending, expected one of {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return READERS[path.suffix](path)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError) or "pickle" in str(error):
            raise InputError(  # What torch and NumPy advise then would run the file's code.
                f"{path}: holds more than arrays, which is refused: it could run any code; save "
                "model.state_dict() alone"
            ) from error
        raise InputError(f"{path}: not a readable {path.suffix} file ({reason(error)})") from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        require_memory(path, sum(member.file_size for member in archive.infolist()))
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise InputError(f"{path}: reading .pt/.pth needs torch: pip install torch") from None
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    loaded = loaded.get("state_dict", loaded)
    # A tensor may claim any shape of few stored values.
    require_memory(path, 4 * sum(math.prod(value.shape) for value in loaded.values()))
    return {key: value.float().numpy() for key, value in loaded.items()}


READERS: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
}

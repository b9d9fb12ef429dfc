"""Arms with one first phase train it once: each begins at the end of it, from a copy."""

import hashlib
import json
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from cxv_jax.config import phase, without_place
from cxv_jax.run_files import CONFIG, SUMMARY, plain


def prefix_of(arm: ConfigDict) -> ConfigDict | None:
    """The config of the run that ends where the arm's second phase begins; None: it has none."""
    if not arm.phase1.epochs or not arm.phase2.epochs:
        return None
    prefix = arm.copy_and_resolve_references()
    prefix.phase2 = ConfigDict({**phase("sgd", 0), "keep": "", "fresh_state": True})
    return prefix


def prefix_name(system: str, seed: int, prefix: ConfigDict) -> str:
    """Its folder; arms whose first phases differ have prefixes of different names."""
    text = json.dumps(without_place(plain(prefix)), sort_keys=True)
    return f"{system}-seed{seed}-prefix-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def fork(prefix: Path, folder: Path) -> None:
    """Let a run in ``folder`` begin where the one in ``prefix`` has ended.

    A run that has begun is left alone. The copy is renamed into place: it is whole or not there.
    """
    if (folder / CONFIG).exists() or (folder / "checkpoints").exists():
        return
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    left_out = shutil.ignore_patterns("config*.json", SUMMARY, "*.png", ".*")
    shutil.copytree(prefix, new, ignore=left_out)
    new.rename(folder)

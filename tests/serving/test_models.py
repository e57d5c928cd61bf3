from pathlib import Path

import pytest

from clearopt.serving import ModelError, models, resolve_model


def test_the_shipped_reasoner_is_there_and_small():
    folder = Path(resolve_model("reasoner"))
    names = {f.name for f in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 4_000_000


def test_a_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert resolve_model(tmp_path) == str(tmp_path.resolve())
    assert resolve_model(str(tmp_path)) == str(tmp_path.resolve())


def test_a_hub_name_is_handed_on():
    assert resolve_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resoner", "unknown model 'resoner': give 'reasoner', 'smollm2', a folder"),
        ("./nowhere", r"there is no folder './nowhere'"),
        ("/no/such/folder", "there is no folder '/no/such/folder'"),
        ("", "there is no folder ''"),
        (Path("owner/name"), "there is no folder"),
    ],
)
def test_unknown_models_are_named(name, message):
    with pytest.raises(ModelError, match=message):
        resolve_model(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no model: it has no config\.json"):
        resolve_model(tmp_path)


def test_where_the_cache_lies(monkeypatch, tmp_path):
    monkeypatch.setenv("CLEAROPT_CACHE", str(tmp_path))
    assert models.cache_directory() == tmp_path
    monkeypatch.delenv("CLEAROPT_CACHE")
    monkeypatch.setattr(models.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert models.cache_directory() == tmp_path / "xdg" / "clearopt"
    monkeypatch.setattr(models.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert models.cache_directory() == tmp_path / "local" / "clearopt"


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLEAROPT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written.*CLEAROPT_CACHE"):
        resolve_model("smollm2")

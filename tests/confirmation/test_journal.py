from clearopt.confirmation.journal import FILE_NAME, Journal, fingerprint, model_fingerprint


def test_what_is_recorded_is_found_again(tmp_path):
    first = Journal(tmp_path / "new", {"seed": 0})
    first.record("a", {"tokens": [1, 2]})
    first.record("b", {"tokens": [3]})
    again = Journal(tmp_path / "new", {"seed": 0})
    assert len(again) == 2
    assert again.get("a") == {"tokens": [1, 2]}
    assert again.get("c") is None


def test_another_configuration_finds_nothing_and_destroys_nothing(tmp_path):
    Journal(tmp_path, {"seed": 0}).record("a", {"tokens": [1]})
    other = Journal(tmp_path, {"seed": 1})
    assert len(other) == 0
    other.record("a", {"tokens": [2]})
    assert Journal(tmp_path, {"seed": 0}).get("a") == {"tokens": [1]}
    assert Journal(tmp_path, {"seed": 1}).get("a") == {"tokens": [2]}


def test_half_a_line_is_passed_over_and_does_not_spoil_the_next(tmp_path):
    Journal(tmp_path, {}).record("a", {"x": 1})
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"run": "cut he')
    torn = Journal(tmp_path, {})
    assert len(torn) == 1
    torn.record("b", {"x": 2})
    assert len(Journal(tmp_path, {})) == 2


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, {})
    journal.record("a", {"x": 1})
    assert journal.get("a") == {"x": 1}
    assert list(tmp_path.iterdir()) == []


def test_fingerprints(tmp_path):
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    (tmp_path / "config.json").write_text("{}")
    before = model_fingerprint(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    assert model_fingerprint(str(tmp_path)) != before
    assert model_fingerprint("owner/name") == "owner/name"

import itertools
import json
import sys

import pytest

from clearopt.serving import ModelError, Reasoning, launch
from clearopt.serving.launch import server_command
from clearopt.serving.models import shipped_reasoner

pytestmark = pytest.mark.vllm


def test_the_command_serves_a_model_under_its_name():
    command, environment = server_command("reasoner", port=8123, options=["--max-num-seqs", "7"])
    assert command[0] == sys.executable
    told = dict(itertools.pairwise(command))
    assert told["--model"] == str(shipped_reasoner())
    assert told["--served-model-name"] == "reasoner"
    assert (told["--host"], told["--port"]) == ("127.0.0.1", "8123")
    assert command[-2:] == ["--max-num-seqs", "7"]
    assert "--reasoning-config" not in command
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_what_the_user_has_set_is_kept(monkeypatch):
    monkeypatch.setattr(launch, "is_cpu_build", lambda: True)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    _, environment = server_command("reasoner")
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_settings_for_cpu_are_for_cpu_only(monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.setattr(launch, "is_cpu_build", lambda: False)
    command, environment = server_command("reasoner")
    assert "--enforce-eager" not in command
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment


def test_marks_of_thinking_are_handed_on():
    command, _ = server_command("reasoner", reasoning=Reasoning(5, "<a>", "<b>"))
    marks = json.loads(command[command.index("--reasoning-config") + 1])
    assert marks == {"reasoning_start_str": "<a>", "reasoning_end_str": "<b>"}


def test_an_unknown_model_is_named():
    with pytest.raises(ModelError, match="unknown model 'nothing'"):
        server_command("nothing")

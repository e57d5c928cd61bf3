import asyncio
import subprocess
import sys

import pytest

import clearopt as co
from clearopt.serving import (
    BusyError,
    EngineError,
    Generation,
    LostError,
    Prefix,
    RefusedError,
    Request,
    Server,
    answer_all,
)
from clearopt.serving.responses import failure_of, retry_after
from tests.serving.stub import END, Running, Stub

PROMPT = "need=40 say=17\n"


def ask(stub, *requests, **options):
    with Running(stub) as url:
        return answer_all(Server(url, **options), requests)


def test_every_request_has_its_own_cap_and_seed():
    stub = Stub()
    requests = [Request(PROMPT, cap, seed=cap) for cap in (1, 5, 39, 40, 60)]
    answers = ask(stub, *requests)
    assert [a.tokens for a in answers] == [1, 5, 39, 40, 40]
    assert [a.finish_reason for a in answers] == ["length", "length", "length", "stop", "stop"]
    assert answers[3].text.endswith("#### 17")
    assert answers[4].token_ids[-1] == END
    assert {e["body"]["seed"] for e in stub.log} == {1, 5, 39, 40, 60}
    assert stub.generated == sum(a.tokens for a in answers)


def test_a_server_generates_as_an_engine_does():
    with Running(Stub()) as url:
        answers = Server(url).generate([PROMPT] * 3, [0, 10, 60], seeds=[1, 2, 3])
    assert [a.finish_reason for a in answers] == ["abandoned", "length", "stop"]
    with pytest.raises(co.DeclarationError, match=r"max_tokens\[0\] = 1.5: must be a whole number"):
        Server("http://localhost").generate([PROMPT], [1.5], 0)


@pytest.mark.parametrize("ids", [True, False])
def test_a_prefix_is_continued(ids):
    stub = Stub(ids=ids)
    with Running(stub) as url:
        (first,) = answer_all(Server(url), [Request(PROMPT, 25, seed=0)])
        assert bool(first.token_ids) is ids
        prefix = Prefix().then(first)
        (rest,) = answer_all(Server(url), [Request(PROMPT, 30, seed=0, prefix=prefix)])
        (whole,) = answer_all(Server(url), [Request(PROMPT, 60, seed=0)])
    assert first.text + rest.text == whole.text
    assert rest.finished
    assert prefix.then(rest).tokens == whole.tokens == 40


def test_a_server_that_ignores_caps_is_hung_up_on():
    stub = Stub("overrun:*", delay=0.001)
    (answer,) = ask(stub, Request(PROMPT, 20))
    assert (answer.tokens, answer.overrun, answer.finish_reason) == (20, 1, "length")
    assert len(answer.text) == 20
    assert stub.generated < 30  # of the 40 it meant to


@pytest.mark.parametrize("fault", ["truncate", "reset", "garbage", "abort", "500", "502"])
def test_an_answer_that_does_not_arrive_whole_is_lost(fault):
    with pytest.raises(LostError):
        ask(Stub(f"{fault}:0"), Request(PROMPT, 20))


def test_a_hang_is_told_from_slowness():
    with pytest.raises(LostError, match=r"no sign of life for 0\.3 s"):
        ask(Stub("hang:0"), Request(PROMPT, 20), idle_timeout=0.3)
    (answer,) = ask(Stub(delay=0.1), Request(PROMPT, 40), idle_timeout=3)
    assert answer.finished


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, BusyError), (503, BusyError), (400, RefusedError), (422, RefusedError),
     (401, EngineError), (404, EngineError), (307, EngineError), (500, LostError)],
)  # fmt: skip
def test_each_status_is_the_failure_it_stands_for(status, kind):
    with pytest.raises(kind, match=rf"answers {status}: on order"):
        ask(Stub(f"{status}:0"), Request(PROMPT, 20))


def test_retry_after_is_read():
    stub = Stub("429:0")
    stub.retry_after = "7"
    with pytest.raises(BusyError) as caught:
        ask(stub, Request(PROMPT, 20))
    assert caught.value.retry_after == 7
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("soon") is retry_after(None) is retry_after("nan") is None
    assert retry_after("1e9") == 3600


def test_nobody_at_the_address():
    with pytest.raises(BusyError, match="cannot be reached"):
        answer_all(Server("http://127.0.0.1:9", "m"), [Request(PROMPT, 5)])


def test_the_key_goes_to_the_server_and_nowhere_else(monkeypatch, capsys):
    monkeypatch.setenv("MY_KEY", "s3cret-key")
    stub = Stub(key="s3cret-key")
    with Running(stub) as url:
        server = Server(url, key_variable="MY_KEY")
        answer_all(server, [Request(PROMPT, 5)])
        assert "s3cret" not in f"{server!r} {server.name} {vars(server)}"
        monkeypatch.setenv("MY_KEY", "wr0ng-key")
        with pytest.raises(EngineError, match=r"401: bad key: Bearer \*\*\* .*MY_KEY") as caught:
            answer_all(Server(url, key_variable="MY_KEY"), [Request(PROMPT, 5)])
        assert "wr0ng" not in str(caught.value)
    assert "s3cret" not in "".join(capsys.readouterr())


def test_the_only_model_is_found_and_others_are_to_be_named():
    stub = Stub()
    ask(stub, Request(PROMPT, 5))
    assert stub.log[0]["body"]["model"] == "stub"
    with pytest.raises(EngineError, match="serves 2 models; name one of them: a, b"):
        ask(Stub(models=("a", "b")), Request(PROMPT, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url = 'localhost:8000': expected something like"),
        ({"base_url": "http://me:pw@host/v1"}, "base_url holds a user name or password"),
        ({"base_url": "http://host", "concurrency": 0}, "concurrency = 0: must be above 0"),
        ({"base_url": "http://host", "extra": {"seed": 1}}, "extra: 'seed' is set for each"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(co.DeclarationError, match=message) as caught:
        Server(**arguments)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"max_tokens": 0}, "max_tokens = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"thinking_tokens": -1}, "thinking_tokens = -1"),
        ({"temperature": float("nan")}, "temperature = nan"),
    ],
)
def test_bad_requests_are_named(arguments, message):
    with pytest.raises(co.DeclarationError, match=message):
        Request(**{"prompt": "p", "max_tokens": 3, **arguments})


def test_thinking_is_limited_by_the_servers_own_field():
    stub = Stub()
    prompt = "need=40 say=17 think=20\n"
    (answer,) = ask(stub, Request(prompt, 40, thinking_tokens=8))
    assert stub.log[0]["body"]["thinking_token_budget"] == 8
    assert answer.text.index("|") == 8


def test_a_message_is_put_into_the_chat_template():
    stub = Stub()
    message = PROMPT.strip()
    with Running(stub) as url:
        first, whole = answer_all(
            Server(url), [Request(message, cap, chat=True) for cap in (25, 60)]
        )
        prefix = Prefix().then(first)
        (rest,) = answer_all(Server(url), [Request(message, 60, chat=True, prefix=prefix)])
    assert {bytes(e["body"]["prompt"]).decode()[: len(PROMPT)] for e in stub.log} == {PROMPT}
    assert first.text + rest.text == whole.text
    with pytest.raises(RefusedError, match="chat template cannot be applied"):
        ask(Stub(ids=False), Request(message, 5, chat=True))
    with pytest.raises(co.DeclarationError, match="must be a text"):
        Request((1, 2), 5, chat=True)


def test_a_cancelled_request_is_withdrawn():
    stub = Stub(delay=0.05)

    async def cancelled(url):
        async with Server(url) as server:
            task = asyncio.create_task(server.answer(Request("need=400 say=1\n", 400)))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.3)

    with Running(stub) as url:
        asyncio.run(cancelled(url))
        assert stub.running == 0
    assert stub.generated < 100


def test_without_aiohttp_the_extra_is_named():
    script = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "import clearopt as co\nfrom clearopt.serving import Server\n"
        "try:\n    Server('http://localhost')\nexcept co.MissingExtraError as e:\n    print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "clearopt[server]" in done.stdout


def test_failures_know_a_message_in_any_dress():
    for text in ('{"error": {"message": "m"}}', '{"message": "m"}', '{"detail": "m"}', "m"):
        assert "answers 400: m" in str(failure_of(400, {}, text, "u", "", Server("http://h")))
    assert Generation("", 3, "length").overrun == 0

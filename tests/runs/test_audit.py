import io

import pytest
from rich.console import Console

import clearopt as co
from clearopt.runs.audit import Auditor, findings
from clearopt.runs.ledger import Ledger
from clearopt.runs.progress import Bar
from clearopt.runs.record import Outcome
from clearopt.runs.wave import Job
from clearopt.serving import Generation, Prefix, Reasoning, Request
from clearopt.serving.reasoning import last_mark, thought

START, END = (1, 2), (3,)


@pytest.mark.parametrize(
    ("ids", "begun", "tokens"),
    [
        ((1, 2, 7, 7, 3, 8), False, 2),
        ((9, 1, 2, 7, 7), False, 2),  # cut within its thinking
        ((7, 7, 7, 3, 8), True, 3),
        ((7, 7), True, 2),
        ((8, 8), False, None),
        ((3, 8), True, 0),
    ],
)
def test_thinking_is_counted(ids, begun, tokens):
    assert thought(ids, END, START, begun=begun) == tokens


def test_marks_are_found():
    assert last_mark((1, 2, 5, 1, 2), START) == 3
    assert last_mark((5,), START) == last_mark((5,), ()) == -1


def test_tokens_are_kept_for_the_answer():
    reasoning = Reasoning(50)
    assert [reasoning.thinking_tokens(cap) for cap in (30, 50, 80)] == [0, 0, 30]
    assert reasoning.answer_in("<think> a </think> b") == " b"
    assert reasoning.answer_in("<think> a") == ""
    with pytest.raises(co.DeclarationError, match="answer_tokens = 0"):
        Reasoning(0)


def audited(prompt, ids, limit, *, template=(), prefix=(), chat=False):
    auditor = Auditor(Reasoning(5, "<a>", "<b>"), START, END, template)
    request = Request(prompt, 50, thinking_tokens=limit, chat=chat,
                      prefix=Prefix("x", len(prefix), tuple(prefix)))  # fmt: skip
    return auditor.audit("0:0", request, Generation("", len(ids), "stop", tuple(ids)))


def test_a_prompt_may_begin_the_thinking():
    ids = (7, 7, 3, 8)
    assert audited("ask <a>", ids, 9).thinking_spent == 2
    assert audited("ask <a> <b>", ids, 9).thinking_spent is None
    assert audited((5, 1, 2), ids, 9).thinking_spent == 2
    assert audited("hi", ids, 9, template=(5, 1, 2), chat=True).thinking_spent == 2
    assert audited("hi", ids, 9, chat=True).thinking_spent is None
    continued = audited("ask <a>", (7, 3, 8), 9, prefix=(7, 7, 7))
    assert continued.thinking_spent == 4


def test_what_is_found_is_told():
    good, long = audited("<a>", (7, 7, 3), 2), audited("<a>", (7, 7, 7, 3), 2)
    assert not good.thought_too_long
    assert long.thought_too_long
    assert findings([good]) == []
    assert "ignored in 1 of 2 requests" in findings([good, long])[0]
    unknown = audited("hi", (7, 7), 2)
    assert "cannot be checked" in findings([unknown])[0]


# -------------------------------------------------------------------------------- progress
def progress(**options):
    out = io.StringIO()
    bar = Bar(Console(file=out, width=120, **options))
    ledger = Ledger(1000)
    bar.begin("generating", 2, ledger)
    for number in range(2):
        ledger.spent += 100
        bar.ended(Job(f"0:{number}", Request("p", 100)), Outcome("answered"))
    bar.finish()
    bar.finish()
    return out.getvalue()


def test_progress_is_shown_on_a_terminal_alone(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    told = progress(force_terminal=True)
    assert "tokens/s, 800 left" in told
    assert "2/2" in told
    assert progress() == ""
    out = io.StringIO()
    Bar(Console(file=out)).note("[http] cannot be reached")
    assert out.getvalue() == "clearopt: note: [http] cannot be reached\n"
    monkeypatch.setenv("TERM", "dumb")
    assert progress(force_terminal=True) == ""

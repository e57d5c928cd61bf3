import asyncio

import pytest

import clearopt as co
from clearopt.runs.queries import Query, reasoning_gym_queries, require_distinct
from clearopt.runs.verifiers import (
    ExactMatch,
    Mathematics,
    MultipleChoice,
    Numeric,
    ReasoningGym,
    final_answer,
    last_number,
)
from clearopt.runs.verifying import Verdict, Verifying
from tests.runs.user_verifiers import by_length, odd


def verdicts(verifier, *pairs, **options):
    async def ask():
        verifying = Verifying(verifier, **options)
        try:
            return await asyncio.gather(*(verifying.verdict(q, text) for q, text in pairs))
        finally:
            verifying.close()

    return asyncio.run(ask())


def query(answer, key="q", **data):
    return Query(key, "p", answer, data)


@pytest.mark.parametrize(
    ("text", "mark", "found"),
    [
        ("so #### 3 \n#### 17 \nand more", "####", "17"),
        ("no mark", "####", None),
        ("cut at ####", "####", ""),
        (r"thus \boxed{\frac{1}{2}} or \boxed{x}", None, "x"),
        (r"\boxed{\frac{1}{2}}", None, r"\frac{1}{2}"),
        ("<answer> 5\n</answer> ok", None, "5"),
        (" just text ", None, "just text"),
    ],
)
def test_the_final_answer_is_found(text, mark, found):
    assert final_answer(text, mark) == found


@pytest.mark.parametrize(
    ("verifier", "answer", "text", "score"),
    [
        (ExactMatch(), "Paris", "  paris ", 1),
        (ExactMatch(case=True), "Paris", "paris", 0),
        (ExactMatch("####"), "17", "4 + 13 = 17 #### 17", 1),
        (ExactMatch("####"), "17", "4 + 13 = 17", 0),
        (Numeric(), "17", "it is 4, no, 17.0", 1),
        (Numeric(), "17", "it is 17, no, 4", 0),
        (Numeric(), "1234567", "1,234,567", 1),
        (Numeric(absolute=0.01), "3.14", "pi is 3.1459", 1),
        (Numeric(absolute=0.001), "3.14", "pi is 3.1459", 0),
        (Numeric(), "0.5", "1/2", 1),
        (Numeric(), "-2e-3", "= -0.002", 1),
        (Numeric(), "5", "nothing", 0),
        (Numeric(), "5", "5/0", 0),
        (MultipleChoice(), "B", "B", 1),
        (MultipleChoice(), "(b)", "(B)", 1),
        (MultipleChoice(), "B", "A is wrong. The answer is (B).", 1),
        (MultipleChoice(), "B", "A dog, a cat. So B", 1),
        (MultipleChoice(), "B", r"I think A but \boxed{B}", 1),
        (MultipleChoice(), "B", "Answer: C", 0),
        (MultipleChoice(mark="####"), "D", "#### D) four", 1),
        (MultipleChoice(), "B", "no letter", 0),
        (Mathematics(), "1/2", "The answer is $0.5$", 1),
        (Mathematics(), r"\frac{1}{2}", r"\boxed{\frac{2}{4}}", 1),
        (Mathematics(), "x^2+1", "$1+x^2$", 1),
        (Mathematics(), "2", "$3$", 0),
        (lambda q, text: by_length(q, text), "3", "abc", 1),
    ],
)
def test_answers_are_told_right_from_wrong(verifier, answer, text, score):
    assert verifier(query(answer), text) == score


def test_numbers_are_read():
    assert last_number("a -3 b .5") == 0.5
    assert last_number("none") is None


def test_a_query_without_an_answer_is_said():
    for verifier in (ExactMatch(), Numeric(), MultipleChoice()):
        with pytest.raises(co.DeclarationError, match=r"'q' has no answer|no number"):
            verifier(query(None), "5")
    with pytest.raises(co.DeclarationError, match="is no number"):
        Numeric()(query("five"), "5")


def test_reasoning_gym_scores_its_own_tasks():
    queries = reasoning_gym_queries("chain_sum", 3, seed=1, template="Q: {question}\nA:")
    assert [q.key for q in queries] == [f"chain_sum-1-{n}" for n in range(3)]
    assert all(q.prompt.startswith("Q: ") for q in queries)
    pairs = [(q, f"<answer>{q.answer}</answer>") for q in queries]
    assert [v.score for v in verdicts(ReasoningGym(), *pairs, seconds=60)] == [1, 1, 1]
    (wrong,) = verdicts(ReasoningGym(), (queries[0], "no"), seconds=60)
    assert (wrong.score < 1, wrong.status) == (True, "scored")
    with pytest.raises(co.DeclarationError, match="reasoning-gym, 'nothing'"):
        reasoning_gym_queries("nothing", 3)


def test_a_verifier_that_raises_hangs_or_dies_costs_one_query():
    keys = ["a", "raises", "b", "hangs", "c", "dies", "two", "nan", "d"]
    found = verdicts(odd, *((query("1", key), "text") for key in keys), seconds=1, processes=2)
    by_key = dict(zip(keys, found, strict=True))
    assert all(by_key[key] == Verdict(1.0) for key in "abcd")
    assert (by_key["raises"].status, by_key["raises"].message) == (
        "raised", "RuntimeError: no idea",
    )  # fmt: skip
    assert by_key["hangs"].status == "timed out"
    assert by_key["dies"].status == "died"
    assert "does not lie between 0 and 1" in by_key["two"].message
    assert by_key["nan"].status == "raised"
    assert sum(v.score for v in found) == 4


def test_a_users_function_is_asked():
    (right, wrong) = verdicts(by_length, (query("3"), "abc"), (query("3"), "abcd"))
    assert (right.score, wrong.score) == (1, 0)


def test_what_no_process_can_be_handed_is_refused():
    with pytest.raises(co.DeclarationError, match="define it by name in a module"):
        Verifying(lambda q, text: 1.0)
    with pytest.raises(co.DeclarationError, match="seconds = 0"):
        Verifying(odd, seconds=0)


def test_labels_must_differ():
    with pytest.raises(co.DeclarationError, match=r"queries\[1\]: the label 'q' stands already"):
        require_distinct([query("1"), query("2")])
    with pytest.raises(co.DeclarationError, match="there is none"):
        require_distinct([])

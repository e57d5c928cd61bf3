import numpy as np
import pytest

from clearopt.errors import DeclarationError, MissingExtraError
from clearopt.prediction import HuggingFaceEncoder, WordLlamaEncoder, encode

TEXTS = ["How many primes are there below 100?", "Count the primes under a hundred.", "A red dog."]


def test_wordllama_works_offline_and_knows_what_is_alike(monkeypatch):
    import socket

    def refused(*_):
        raise AssertionError("it went online")

    monkeypatch.setattr(socket.socket, "connect", refused)
    found = encode([*TEXTS, ""], WordLlamaEncoder()).values
    assert found.shape == (4, 256)
    assert np.linalg.norm(found, axis=1) == pytest.approx([1.0, 1.0, 1.0, 0.0])
    alike = found @ found.T
    assert alike[0, 1] > alike[0, 2] + 0.1


def test_an_embedding_is_that_of_its_text_alone():
    encoder = WordLlamaEncoder(normalized=False)
    together = encoder(TEXTS)
    for i, text in enumerate(TEXTS):
        assert encoder([text])[0] == pytest.approx(together[i])


def test_wordllama_missing_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"clearopt\[predict\]"):
        WordLlamaEncoder()(["text"])


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory):
    """A BERT of random weights over words, made here: nothing is downloaded."""
    from clearopt.serving.environment import hide_broken_companions

    hide_broken_companions()
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({w for t in TEXTS for w in t.split()})]
    reader = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    reader.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("tiny-bert")
    PreTrainedTokenizerFast(
        tokenizer_object=reader, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def test_a_hugging_face_encoder_averages_over_words_not_over_padding(tiny_encoder):
    encoder = HuggingFaceEncoder(tiny_encoder)
    together = encode(TEXTS, encoder).values
    assert together.shape == (3, 16)
    for i, text in enumerate(TEXTS):
        assert encoder([text])[0] == pytest.approx(together[i], abs=1e-5)
    in_parts = HuggingFaceEncoder(tiny_encoder, batch=2)(TEXTS)
    assert in_parts == pytest.approx(together, abs=1e-5)


def test_a_long_prompt_is_cut(tiny_encoder):
    encoder = HuggingFaceEncoder(tiny_encoder, longest=4)
    assert encoder([TEXTS[0]])[0] == pytest.approx(encoder([TEXTS[0] + " and more"])[0], abs=1e-6)


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DeclarationError, match="cannot be loaded"):
        HuggingFaceEncoder(tmp_path / "nothing")(["text"])


def test_any_function_is_an_encoder_if_it_gives_one_row_a_text():
    found = encode(TEXTS, lambda texts: [[len(t), t.count(" ")] for t in texts], name="size")
    assert found.names == ("size[0]", "size[1]")
    with pytest.raises(DeclarationError, match="one row"):
        encode(TEXTS, lambda texts: [1.0, 2.0])
    with pytest.raises(DeclarationError, match=r"'embedding\[0\]'\[1\] = nan"):
        encode(["a", "b"], lambda texts: [[1.0], [np.nan]])

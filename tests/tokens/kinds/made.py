"""Small tokenizers of each kind that Hugging Face's library has, trained here: no network."""

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "to be, or not to be, that is the question: whether 'tis nobler in the mind to suffer",
    "the slings and arrows of outrageous fortune, or to take arms against a sea of troubles",
    "naïve café – 12 345 🙂 \t tabs\nand\r\nlines   spaces <|im_start|> </s>",
] * 3
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> tokenizers.Tokenizer:
    """As GPT-2's and Llama 3's."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def sentencepiece_bpe() -> tokenizers.Tokenizer:
    """As Llama 2's: a space is put before a text, and what has no token is spelled in bytes."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split(Regex("▁*[^▁]*"), "isolated")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=380, special_tokens=["<unk>", "<s>", "</s>", *BYTES])
    made.train_from_iterator(TEXTS[:2], trainer)
    return made


def unigram(normalizer: normalizers.Normalizer | None = None) -> tokenizers.Tokenizer:
    """As T5's: no bytes, so that what was not in its text is <unk>."""
    made = tokenizers.Tokenizer(models.Unigram())
    if normalizer:
        made.normalizer = normalizer
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return made


def save(made: tokenizers.Tokenizer, path: Path) -> Path:
    made.save(str(path))
    return path


def with_words(made: tokenizers.Tokenizer, *words: str) -> tokenizers.Tokenizer:
    """Add tokens that are not special: a text holds them."""
    made.add_tokens([AddedToken(word, special=False) for word in words])
    return made

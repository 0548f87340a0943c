"""Answering one person, piece by piece: a conversation becomes tokens by the template that the model has learned."""

from collections.abc import Iterator, Sequence

from gpt.errors import UserError
from gpt.finetuning.data.encoded import shortened
from gpt.finetuning.data.templates import ChatTemplate, Message
from gpt.model.generation import continue_tokens
from gpt.model.sampling import Sampling
from gpt.model.transformer import GPTModel


def answer_text(
    model: GPTModel, template: ChatTemplate, messages: Sequence[Message], sampling: Sampling
) -> Iterator[str]:
    """Yield the assistant's next turn in pieces of whole characters, until it ends by itself or is `max_new_tokens` long.

    Of a conversation longer than the context the oldest turns go. Raises `UserError` if the last turn alone is longer.
    """
    encoding = template.encoding
    ends = {template.end, encoding.eot_token}
    special = {encoding.encode_single_token(name) for name in encoding.special_tokens_set}
    ids: list[int] = []
    for shorter in shortened(messages):
        ids = template.encode_prompt(shorter)
        if len(ids) < model.config.block_size:
            pieces = continue_tokens(model, encoding, [ids], sampling, ends=ends, silent=special)
            return (piece for _, piece in pieces)
    raise UserError(
        f"the message is too long: {len(ids):,} tokens with its frame, of a context of {model.config.block_size:,}"
    )

"""Answering one person, piece by piece: a conversation becomes tokens by the template that the model has learned."""

from collections.abc import Iterator, Sequence

from gpt.errors import UserError
from gpt.finetuning.data.encoded import fit_prompt
from gpt.finetuning.data.templates import ChatTemplate, Message
from gpt.model.generation import continue_tokens
from gpt.model.sampling import Sampling
from gpt.model.transformer import GPTModel
from gpt.tokens.encoding import special_ids


def answer_text(
    model: GPTModel, template: ChatTemplate, messages: Sequence[Message], sampling: Sampling
) -> Iterator[str]:
    """Yield the assistant's next turn in pieces of whole characters, until it ends by itself or is `max_new_tokens` long.

    Of a conversation longer than the context the oldest turns go. Raises `UserError` if the last turn alone is longer.
    """
    encoding, context = template.encoding, model.config.block_size
    ids, _ = fit_prompt(template, messages, context - 1)
    if len(ids) >= context:
        raise UserError(f"the message is too long: {len(ids):,} tokens with its frame, of a context of {context:,}")
    silent = special_ids(encoding)
    return (piece for _, piece in continue_tokens(model, encoding, [ids], sampling, ends=template.ends, silent=silent))

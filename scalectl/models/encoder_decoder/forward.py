"""The encoder-decoder's forward pass: a pure function of the tensors' views.

Legend: K models in the pack, B problems, T tokens of a prompt, A of an answer, W = T + A, M of all prompts or all
answers in a batch, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scalectl.models import primitives as p
from scalectl.models.encoder_decoder.spec import Options
from scalectl.models.layers import Run, Views, blocks, linear, mlp, norm

Memory = Tensor | p.Normed  # what the encoder makes of the prompts, for every block of the decoder


def encode(views: Views, prompts_KBT: Tensor, o: Options, run: Run | None = None) -> Memory:
    """What the decoder looks at, shape (K, B T, D). run: as of `layers.blocks`."""
    x_KMD = _embedded(views, prompts_KBT, "encoder", o)
    x_KMD = blocks(_encoder_block, x_KMD, views, "encoder", o.encoders, run, o, prompts_KBT.shape[1])
    return norm(x_KMD, views, "encoder.norm") if o.norm_first else x_KMD


def decode(views: Views, begun_KBA: Tensor, memory: Memory, o: Options, run: Run | None = None) -> Tensor:
    """Logits of the token after each of these, shape (K, B A, V); begun: answers behind the token that begins them."""
    x_KMD = _embedded(views, begun_KBA, "decoder", o)
    x_KMD = blocks(_decoder_block, x_KMD, views, "decoder", o.decoders, run, memory, o, begun_KBA.shape[1])
    last = norm(x_KMD, views, "decoder.norm") if o.norm_first else x_KMD
    return p.linear(last, views["token" if o.tie else "head"].transpose(1, 2), None)


def logits(views: Views, problems_KBW: Tensor, o: Options, run: Run | None = None) -> Tensor:
    """Logits of every answer token, shape (K, B A, V).

    The last token of the prompt begins the answer, as in the shift by one of a decoder alone.

    Args: views: tensors by name, each (K, *shape of spec.tensors); problems_KBW: prompt and answer, integers below V.
    """
    memory = encode(views, problems_KBW[..., : -o.answers], o, run)
    return decode(views, problems_KBW[..., -o.answers - 1 : -1], memory, o, run)


def token_losses(views: Views, problems_KBW: Tensor, o: Options, run: Run | None = None) -> Tensor:
    """Cross-entropy of every answer token [nats], shape (K, B A)."""
    return p.token_losses(logits(views, problems_KBW, o, run), _answers(problems_KBW, o))


def judge(views: Views, problems_KBW: Tensor, o: Options) -> tuple[Tensor, Tensor]:
    """`token_losses`, and whether each answer token is the most likely one after what stands before it."""
    return p.judged(logits(views, problems_KBW, o), _answers(problems_KBW, o))


def generate(views: Views, prompts_KBT: Tensor, answers: int, o: Options) -> Tensor:
    """The most likely token of the answer, then the next after it, and so on: shape (K, B, answers).

    The prompt is read once, what is written of the answer again for every token.
    """
    B = prompts_KBT.shape[1]
    memory = encode(views, prompts_KBT, o)
    begun_KBA = prompts_KBT[..., -1:]
    for _ in range(answers):
        next_KB1 = p.last_tokens(decode(views, begun_KBA, memory, o), B, 1).argmax(-1, keepdim=True)
        begun_KBA = torch.cat([begun_KBA, next_KB1], dim=2)
    return begun_KBA[..., 1:]


def _answers(problems_KBW: Tensor, o: Options) -> Tensor:
    return problems_KBW[..., -o.answers :].flatten(1)


def _embedded(views: Views, tokens_KBT: Tensor, stack: str, o: Options) -> Tensor:
    K, B, T = tokens_KBT.shape
    x_KMD = p.embedding(tokens_KBT.reshape(K, B * T), views["token"])
    if o.position == "learned":
        return p.add_positions(x_KMD, views[f"{stack}.position"][:, :T], B)
    return p.add_positions(x_KMD, p.sinusoid(T, o.d_model, x_KMD.dtype, x_KMD.device).unsqueeze(0), B)


def _encoder_block(x_KMD: Tensor, views: Views, at: str, o: Options, B: int) -> Tensor:
    if o.norm_first:
        qkv = linear(norm(x_KMD, views, f"{at}.norm1"), views, f"{at}.qkv")
        x_KMD = linear(p.full_attention(qkv, B, o.n_head), views, f"{at}.out", onto=x_KMD)
        return mlp(norm(x_KMD, views, f"{at}.norm2"), views, at, o.activation, onto=x_KMD)
    mixed = p.full_attention(linear(x_KMD, views, f"{at}.qkv"), B, o.n_head)
    x_KMD = p.scaled(norm(linear(mixed, views, f"{at}.out", onto=x_KMD), views, f"{at}.norm1"))
    return p.scaled(norm(mlp(x_KMD, views, at, o.activation, onto=x_KMD), views, f"{at}.norm2"))


def _decoder_block(x_KMD: Tensor, views: Views, at: str, memory: Memory, o: Options, B: int) -> Tensor:
    kv = linear(memory, views, f"{at}.cross.kv")
    if o.norm_first:
        qkv = linear(norm(x_KMD, views, f"{at}.norm1"), views, f"{at}.qkv")
        x_KMD = linear(p.causal_attention(qkv, B, o.n_head), views, f"{at}.out", onto=x_KMD)
        q = linear(norm(x_KMD, views, f"{at}.cross.norm"), views, f"{at}.cross.q")
        x_KMD = linear(p.cross_attention(q, kv, B, o.n_head), views, f"{at}.cross.out", onto=x_KMD)
        return mlp(norm(x_KMD, views, f"{at}.norm2"), views, at, o.activation, onto=x_KMD)
    mixed = p.causal_attention(linear(x_KMD, views, f"{at}.qkv"), B, o.n_head)
    x_KMD = p.scaled(norm(linear(mixed, views, f"{at}.out", onto=x_KMD), views, f"{at}.norm1"))
    mixed = p.cross_attention(linear(x_KMD, views, f"{at}.cross.q"), kv, B, o.n_head)
    x_KMD = p.scaled(norm(linear(mixed, views, f"{at}.cross.out", onto=x_KMD), views, f"{at}.cross.norm"))
    return p.scaled(norm(mlp(x_KMD, views, at, o.activation, onto=x_KMD), views, f"{at}.norm2"))

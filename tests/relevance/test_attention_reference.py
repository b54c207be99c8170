"""A whole transformer, R by R as the papers write the rules: loops, not the gradient form."""

import pytest
import torch

from debride.relevance import attribute

from .networks import Transformer

HEADS, WIDTH = 3, 12


def stable(z):
    return z + 1e-13 * torch.where(z >= 0, 1.0, -1.0)


def back_linear(x, weight, bias, relevance):
    """ε rule for rows of tokens: R_x = x ⊙ Wᵀ(R / (Wx + b))."""
    out = torch.zeros_like(x)
    for token in range(len(x)):
        for j in range(len(weight)):
            z = weight[j] * x[token]
            out[token] += z * relevance[token, j] / stable(z.sum() + bias[j])
    return out


def back_norm(x, norm, relevance):
    """Layer norm with its standard deviation held: linear in x, the bias absorbs."""
    out = torch.zeros_like(x)
    width = x.shape[1]
    for token in range(len(x)):
        scale = (x[token].var(unbiased=False) + norm.eps).rsqrt()
        centre = torch.eye(width, dtype=x.dtype) - 1 / width
        weight = norm.weight[:, None] * scale * centre
        out[token] = back_linear(x[token : token + 1], weight, norm.bias, relevance[token, None])
    return out


def back_product(a, b, relevance):
    """y = a b: half of each contribution to each factor."""
    to_a, to_b = torch.zeros_like(a), torch.zeros_like(b)
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            z = a[i] * b[:, j]
            part = z * relevance[i, j] / stable(2 * z.sum())
            to_a[i] += part
            to_b[:, j] += part
    return to_a, to_b


def back_softmax(scores, weights, relevance, attention):
    if attention == "cp":
        return torch.zeros_like(scores)
    out = torch.zeros_like(scores)
    for i in range(len(scores)):
        out[i] = scores[i] * (relevance[i] - weights[i] * relevance[i].sum())
    return out


def share_sum(a, b, relevance):
    return relevance * a / stable(a + b), relevance * b / stable(a + b)


def explain(model, image, label, attention):
    """Forward by hand, then every step back."""
    embedded = model.embed(image)[0].flatten(1).T
    patches = torch.cat([model.token[0], embedded])
    x0 = patches + model.positions[0]
    n1 = model.norm1(x0)
    qkv = model.qkv(n1)
    q, k, v = (
        qkv[:, part * WIDTH : (part + 1) * WIDTH].view(-1, HEADS, 4).permute(1, 0, 2)
        for part in range(3)
    )
    scores = torch.stack([q[h] * 0.5 @ k[h].T for h in range(HEADS)])
    weights = scores.softmax(-1)
    mixed = torch.stack([weights[h] @ v[h] for h in range(HEADS)])
    joined = mixed.permute(1, 0, 2).reshape(-1, WIDTH)
    attended = model.project(joined)
    x1 = x0 + attended
    n2 = model.norm2(x1)
    hidden = model.mlp[0](n2)
    active = model.mlp[1](hidden)
    out = model.mlp[3](active)
    x2 = x1 + out

    relevance = torch.zeros(len(x2), 4, dtype=image.dtype)
    relevance[0, label] = model.head(x2)[0, label]
    relevance = back_linear(x2, model.head.weight, model.head.bias, relevance)
    to_x1, to_out = share_sum(x1, out, relevance)
    back = back_linear(active, model.mlp[3].weight, model.mlp[3].bias, to_out)
    back = back_linear(n2, model.mlp[0].weight, model.mlp[0].bias, back)  # GELU passes R
    to_x1 = to_x1 + back_norm(x1, model.norm2, back)
    to_x0, to_attended = share_sum(x0, attended, to_x1)
    back = back_linear(joined, model.project.weight, model.project.bias, to_attended)
    back = back.view(-1, HEADS, 4).permute(1, 0, 2)
    to_qkv = torch.zeros_like(qkv).view(-1, 3, HEADS, 4)
    for h in range(HEADS):
        if attention == "cp":
            to_weights, to_v = torch.zeros_like(weights[h]), torch.zeros_like(v[h])
            for i in range(len(weights[h])):
                for d in range(4):
                    z = weights[h, i] * v[h][:, d]
                    to_v[:, d] += z * back[h, i, d] / stable(z.sum())
        else:
            to_weights, to_v = back_product(weights[h], v[h], back[h])
        to_scores = back_softmax(scores[h], weights[h], to_weights, attention)
        to_q, to_k = back_product(q[h] * 0.5, k[h].T, to_scores)
        to_qkv[:, 0, h], to_qkv[:, 1, h], to_qkv[:, 2, h] = to_q, to_k.T, to_v
    back = back_linear(n1, model.qkv.weight, model.qkv.bias, to_qkv.reshape(-1, 36))
    to_x0 = to_x0 + back_norm(x0, model.norm1, back)
    to_patches = share_sum(patches, model.positions[0], to_x0)[0][1:]
    found = torch.zeros_like(image)
    for p in range(4):
        row, column = divmod(p, 2)
        window = (0, slice(None), slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        pixels = image[window].reshape(1, -1)
        weight = model.embed.weight.reshape(WIDTH, -1)
        part = back_linear(pixels, weight, model.embed.bias, to_patches[p : p + 1])
        found[window] = part.view(3, 4, 4)
    return found


@pytest.mark.parametrize(("rules", "attention"), [("attnlrp", "attnlrp"), ("cplrp", "cp")])
def test_a_transformer_equals_the_rules_written_out(rules, attention):
    torch.manual_seed(0)
    model = Transformer(fused=False).double().eval().requires_grad_(False)
    for parameter in (*model.norm1.parameters(), *model.norm2.parameters()):
        torch.nn.init.normal_(parameter)
    image = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    expected = explain(model, image, 2, attention)
    found = attribute(model, image, 2, rules=rules).input
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)

"""The heads have the form and the size they are said to have."""

from __future__ import annotations

import torch

from emergence.model import BilinearProbe, SpanHead


def test_the_span_head_is_one_linear_layer_over_each_word_alone() -> None:
    head = SpanHead(6, seed=1)
    assert sum(weight.numel() for weight in head.parameters()) == 2 * (6 + 1)
    words = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    start, end = head(words)
    assert start.shape == end.shape == (2, 4)
    torch.testing.assert_close(torch.stack(head(words[1, 2])), torch.stack((start[1, 2], end[1, 2])))
    torch.testing.assert_close(head(words + words)[0] - start, start - head(torch.zeros_like(words))[0])
    assert torch.equal(head.linear.weight, SpanHead(6, seed=1).linear.weight)
    assert not torch.equal(head.linear.weight, SpanHead(6, seed=2).linear.weight)


def test_the_bilinear_probe_lets_the_question_choose_the_word() -> None:
    probe = BilinearProbe(6, rank=4)
    generator = torch.Generator().manual_seed(0)
    words, questions = torch.randn(2, 5, 6, generator=generator), torch.randn(2, 12, generator=generator)
    start, end = probe(questions, words)
    assert start.shape == end.shape == (2, 5)
    # By hand, for one question and word.
    z, w = probe.question(questions[1]).view(2, 4), probe.word(words[1, 3]).view(2, 4)
    by_hand = (z * w).sum(-1) / 2 + torch.stack(probe.linear(words[1, 3]))
    torch.testing.assert_close(torch.stack((start[1, 3], end[1, 3])), by_hand)


def test_the_bilinear_probe_learns_a_relation_no_linear_head_can() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(200, 6, 8, generator=generator)
    answer = torch.randint(0, 6, (200,), generator=generator)
    # The question names the answer's own state: which word it is cannot be read off any word alone.
    question = torch.cat([words[torch.arange(200), answer], torch.zeros(200, 8)], dim=1)
    probe = BilinearProbe(8, rank=8, seed=3)
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.03)
    for _ in range(60):
        start, _ = probe(question, words)
        loss = torch.nn.functional.cross_entropy(start, answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (probe(question, words)[0].argmax(1) == answer).float().mean() > 0.9

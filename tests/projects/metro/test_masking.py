import pytest
import torch

from projects.metro.masking import TokenMasking, draw_masked


def test_how_many_are_masked_is_uniform_up_to_the_bound():
    torch.manual_seed(0)
    counts = draw_masked(20_000, 14, 0.3).sum(1)
    # floor(4.2 u): a fifth of the last number, 4, is left.
    expected = torch.tensor([1, 1, 1, 1, 0.2]) / 4.2
    found = torch.bincount(counts, minlength=5) / 20_000
    torch.testing.assert_close(found, expected, rtol=0, atol=0.012)  # 3.5 standard deviations


def test_every_token_is_masked_as_often():
    torch.manual_seed(0)
    often = draw_masked(20_000, 14, 0.3).float().mean(0)
    mean = (1 + 2 + 3 + 4 * 0.2) / 4.2 / 14
    torch.testing.assert_close(often, torch.full((14,), mean), rtol=0, atol=0.009)


def test_a_masked_token_is_one_number_throughout():
    torch.manual_seed(0)
    masking = TokenMasking(num_joints=14, max_ratio=0.5)
    tokens = torch.randn(50, 34, 6)
    found = masking(tokens)
    masked = (found == 0.01).all(-1)
    assert torch.equal(found[~masked], tokens[~masked])
    assert (masked[:, :14].sum(1) < 7).all()
    assert (masked[:, 14:].sum(1) < 10).all()
    joints, vertices = masked[:, :14].sum(1).float(), masked[:, 14:].sum(1).float()
    assert joints.max() == 6
    assert vertices.max() == 9
    # One draw for both would tie their numbers together.
    assert abs(torch.corrcoef(torch.stack([joints, vertices]))[0, 1]) < 0.4


def test_torchs_seed_decides():
    masking = TokenMasking(14)
    tokens = torch.randn(4, 34, 6)

    def masked(seed):
        torch.manual_seed(seed)
        return masking(tokens)

    assert torch.equal(masked(1), masked(1))
    assert not torch.equal(masked(1), masked(2))


def test_nothing_is_masked_in_evaluation_or_at_ratio_0():
    tokens = torch.randn(4, 34, 6)
    assert TokenMasking(14).eval()(tokens) is tokens
    assert TokenMasking(14, max_ratio=0.0)(tokens) is tokens


def test_a_ratio_has_a_range():
    with pytest.raises(ValueError, match=r"max_masked must be in \[0, 1\], got 1.5"):
        TokenMasking(14, 1.5)

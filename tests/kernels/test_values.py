"""Each value family has the properties for which it was chosen.

Means and deviations of n draws are tested to six standard errors: a standard error of a mean is std / sqrt(n), that of
a standard deviation of normal draws is std / sqrt(2 n). The draws are fixed, so nothing here can be flaky.
"""

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from fa2verify.kernels.activations import captured
from fa2verify.kernels.values import DEPENDENT, FAMILIES, ROLES, Family, Role, Stream, Values, draw

SHAPE = (257, 3, 64)
COUNT = 257 * 3 * 64


def values(family: Family, role: Role = "q", seed: int = 5, sequence: int = 0) -> Values:
    return draw(family, seed, role, sequence, SHAPE)


def assert_normal(got: Values, mean: float, std: float) -> None:
    assert abs(got.mean(dtype=np.float64) - mean) < 6 * std / np.sqrt(got.size)
    assert abs(got.std(dtype=np.float64) - std) < 6 * std / np.sqrt(2 * got.size)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_finite_fp32_of_the_shape_and_the_same_every_time(family: Family, role: Role) -> None:
    got = values(family, role)
    assert got.dtype == np.float32
    assert got.shape == SHAPE
    assert np.isfinite(got).all()
    # Far from the largest fp16, 65504.
    assert np.abs(got).max() < 100
    assert got.tobytes() == values(family, role).tobytes()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_another_seed_role_or_sequence_gives_other_values(family: Family, role: Role) -> None:
    got = values(family, role)
    assert (got != values(family, role, seed=6)).any()
    assert (got != values(family, role, sequence=1)).any()
    for other in ROLES:
        assert other == role or (got != values(family, other)).any()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_sequence_may_be_empty_or_of_one_row(family: Family, role: Role) -> None:
    assert draw(family, 0, role, 0, (0, 3, 64)).shape == (0, 3, 64)
    assert draw(family, 0, role, 0, (1, 1, 1)).shape == (1, 1, 1)


def test_streams_do_not_overlap() -> None:
    seen = [Stream.of(seed, role).indices((64,)).tobytes() for seed in range(20) for role in range(20)]
    assert len(set(seen)) == 400


def test_indices_are_uniform() -> None:
    index = Stream.of(1, 2).indices((2**18,))
    # 256 bins of 1024 expected: six standard deviations of a bin's count are 6 * 32.
    assert abs(np.bincount(index >> 8, minlength=256) - 1024).max() < 192


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 1023])
def test_a_stream_gives_as_many_draws_as_asked_for(count: int) -> None:
    long = Stream.of(3, 4).indices((1024,))
    assert (Stream.of(3, 4).indices((count,)) == long[:count]).all()


def test_normal_draws_are_normal() -> None:
    got = Stream.of(1, 0).normal((2**18,))
    assert_normal(got, 0, 1)
    assert np.abs(got).max() < 4.4
    for bound, probability in ((1.0, 0.682689), (2.0, 0.954500), (3.0, 0.997300)):
        error = np.sqrt(probability * (1 - probability) / got.size)
        assert abs((np.abs(got) < bound).mean() - probability) < 6 * error


@pytest.mark.parametrize(
    ("family", "mean", "std"), [("randn", 0, 1), ("large", 0, 5), ("small", 0, 0.1), ("shifted_mean", 2, 1)]
)
@pytest.mark.parametrize("role", ROLES)
def test_gaussian_families(family: Family, mean: float, std: float, role: Role) -> None:
    assert_normal(values(family, role), mean, std)


@pytest.mark.parametrize("role", ROLES)
def test_outliers_are_one_in_a_thousand(role: Role) -> None:
    got = values("outliers", role)
    far = np.abs(got) > 5  # beyond any N(0, 1) draw, and 62 % of N(0, 101) draws
    expected = COUNT * 66 / 65536 * 0.62
    assert abs(far.sum() - expected) < 6 * np.sqrt(expected)
    assert_normal(got[~far], 0, 1)


@pytest.mark.parametrize("role", ROLES)
def test_powers_of_two_are_exact_and_all_there(role: Role) -> None:
    got = values("powers_of_two", role)
    assert set(np.unique(got)) == {sign * 2.0**-power for sign in (1, -1) for power in range(5)}
    assert abs((got > 0).mean() - 0.5) < 6 * 0.5 / np.sqrt(COUNT)


@pytest.mark.parametrize("role", ROLES)
def test_half_of_negative_zero_is_negative_zero(role: Role) -> None:
    got = values("negative_zero", role)
    zero = got == 0
    assert np.signbit(got[zero]).all()
    assert abs(zero.mean() - 0.5) < 6 * 0.5 / np.sqrt(COUNT)
    assert_normal(got[~zero], 0, 1)


def test_tied_keys_tie_and_their_values_have_one_sign() -> None:
    k, v = values("tied_keys", "k"), values("tied_keys", "v")
    assert (k == k[0]).all()
    assert len(np.unique(k[0])) > 100
    assert (v <= -0.5).all()
    assert len(np.unique(v)) > 1000
    assert_normal(values("tied_keys", "q"), 0, 1)


@pytest.mark.parametrize("head_dim", [1, 2, 3, 8, 64, 256])
def test_paired_keys_tie_far_above_the_others(head_dim: int) -> None:
    q, k, v = (draw("paired_keys", 5, role, 0, (257, 3, head_dim)) for role in ("q", "k", "v"))
    assert (k[:2] == k[0, 0]).all(), "one vector, for all heads"
    scores = np.einsum("ihd,jhd->hij", q.astype(np.float64), k.astype(np.float64)) / np.sqrt(head_dim)
    # A pair's score is 16 plus a standard normal times |x| / sqrt(head_dim), at most 1.9 in these draws; its mean over
    # 257 queries and 3 heads is within six standard errors.
    size = np.sqrt((k[0, 0].astype(np.float64) ** 2).mean())
    assert abs(scores[..., 0].mean() - 16) < 6 * size / np.sqrt(257 * 3)
    # Nothing else comes near: exp(-5) is the least ratio here, of one of 200,000 scores.
    assert (scores[..., :1] - scores[..., 2:]).min() > 5
    assert (v <= -0.5).all()
    assert_normal(draw("paired_keys", 5, "dout", 0, (257, 3, head_dim)), 0, 1)


def test_queries_of_paired_keys_add_up_to_little() -> None:
    """As if they were standard normal: what all queries have in common cancels within its row."""
    q = values("paired_keys", "q").astype(np.float64)
    assert abs(q.sum()) < 6 * np.sqrt(COUNT)
    assert abs(q[..., 0].mean()) > 0.2, "and they do have something in common"


def test_the_first_key_of_huge_logit_outweighs_the_others() -> None:
    """Where it points along the query; where it points away, half of the rows, it is out of the softmax."""
    q, k = values("huge_logit", "q")[:, 0].astype(np.float64), values("huge_logit", "k")[:, 0].astype(np.float64)
    assert_normal(values("huge_logit", "k")[1:], 0, 1)
    scores = q @ k.T / 8
    along = scores[:, 0] > 12
    assert along.sum() > 5
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    assert (weights[along, 0] / weights[along].sum(axis=1) > 0.9).all()


def test_all_scores_of_opposed_are_low() -> None:
    """exp(-lse) is then more than fp16 holds, 65504, from head_dim 16 on: lse is at most the best score + log(257)."""
    q, k = values("opposed", "q")[:, 0].astype(np.float64), values("opposed", "k")[:, 0].astype(np.float64)
    assert (q >= 2).all()
    assert (k <= -2).all()
    assert (q[:, :16] @ k[:, :16].T / 4).max() + np.log(257) < -np.log(65504)


def test_only_dependent_families_repeat_values() -> None:
    """Values that come again are rounded alike. The zeros of negative_zero come again too, but round to nothing.

    Single values of activations come again because fp16 has few; whole rows, whose scores would be equal, do not.
    """
    repeated = {family for family in FAMILIES if len(np.unique(values(family, "k"))) < COUNT // 2}
    assert repeated == DEPENDENT | {"negative_zero", "activations"}
    for head_dim in (8, 32, 40, 256):
        keys = draw("activations", 3, "k", 0, (3000, 2, head_dim))
        assert all(len(np.unique(keys[:, head], axis=0)) == 3000 for head in range(2))


def real(seed: int, role: Role, shape: tuple[int, ...]) -> Values:
    return draw("activations", seed, role, 0, shape)


def test_activations_are_the_captured_rows_of_one_head_in_all_roles() -> None:
    store = captured()
    assert store.shape == (4, 10, 128, 32)
    starts = set()
    for seed in range(40):
        q = real(seed, "q", (5, 1, 32))[:, 0]
        (head,), (start,) = np.nonzero((store[0, :, :124] == q[0]).all(-1))
        starts.add(int(start))
        for position, role in enumerate(ROLES):
            rows = np.concatenate([store[position, head, start:], store[position, (head + 1) % 10]])
            assert (real(seed, role, (128, 1, 32))[:, 0] == rows[:128]).all()
    # Half of all sequences begin where the text does: 20 of 40, six standard deviations are 19.
    assert 0 in starts
    assert len(starts) > 5


def test_activations_of_other_head_dims_are_slices_and_heads_side_by_side() -> None:
    four = real(7, "k", (9, 4, 32))
    assert (real(7, "k", (9, 2, 64)) == four.reshape(9, 2, 64)).all()
    assert (real(7, "k", (9, 2, 40)) == four.reshape(9, 2, 64)[..., :40]).all()
    assert (real(7, "k", (9, 4, 8)) == four[..., :8]).all()


def test_activations_have_sinks_and_uneven_gradients() -> None:
    q, k, _, dout = captured().astype(np.float64)
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(32)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    ends = weights[..., [0, -1]].sum(-1).mean(-1)  # of what each head gives out; 2 / 128 would be even
    assert ends.max() > 0.6
    assert (ends > 0.3).sum() >= 5
    assert np.abs(scores).max() > 30
    sizes = np.sqrt((dout**2).mean(-1))
    assert ((sizes > 0.5).any(-1) & (sizes.max(-1) > 5 * sizes.min(-1))).all()
    assert (sizes.max(-1) / sizes.min(-1)).max() > 100


def test_activations_are_the_file_that_the_capture_wrote() -> None:
    page = (Path(__file__).parents[2] / "docs/activations/README.md").read_text()
    stored = files("fa2verify.kernels").joinpath("activations.npy").read_bytes()
    assert hashlib.sha256(stored).hexdigest() in page

import torch

from frametx.nn.sinusoid import sinusoid_table

CPU = torch.device("cpu")


def test_frames_are_told_apart_by_sine_and_cosine_of_falling_frequency() -> None:
    table = sinusoid_table(50, 8, device=CPU)
    frames = torch.arange(50.0)
    torch.testing.assert_close(table[:, 0], frames.sin())
    torch.testing.assert_close(table[:, 1], frames.cos())
    torch.testing.assert_close(table[:, 2], (frames / 10_000 ** (2 / 8)).sin())


def test_a_longer_table_starts_like_a_shorter_one() -> None:
    long, short = sinusoid_table(5_000, 6, device=CPU), sinusoid_table(7, 6, device=CPU)
    assert torch.equal(long[:7], short)


def test_an_odd_number_of_features_ends_with_a_sine() -> None:
    assert torch.equal(sinusoid_table(9, 5, device=CPU)[:, 4], _sine_of_slowest(9))


def _sine_of_slowest(num_frames: int) -> torch.Tensor:
    frequency = torch.exp(
        torch.tensor(4.0) * (-torch.tensor(10_000.0, dtype=torch.float64).log() / 5).float()
    )
    return (torch.arange(float(num_frames)) * frequency).sin()

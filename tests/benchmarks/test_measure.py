"""The script that times the networks, on a network small enough to wait for."""

import sys
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).parents[2]
if not (CHECKOUT / "benchmarks" / "measure.py").is_file():
    pytest.skip(f"no benchmarks in {CHECKOUT}: not a checkout", allow_module_level=True)
if not Path("/proc/self/clear_refs").exists():
    pytest.skip("the script reads memory from Linux' /proc", allow_module_level=True)
sys.path.insert(0, str(CHECKOUT))

from benchmarks import measure as script  # noqa: E402

CASE = {"n_fft": 32, "channels": 2, "num_heads": 2, "num_layers": 1, "dropout": 0.0}


@pytest.fixture(autouse=True)
def _small_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(script.CASES, "v3", CASE)


def measured(mode: str) -> dict[str, float]:
    threads = torch.get_num_threads()
    return script.measure("v3", "plain", mode=mode, frames=6, threads=threads, repeats=2)


def test_training_and_inference_see_the_same_network_and_input() -> None:
    trained, inferred = measured("train"), measured("infer")
    assert trained["mean_square_of_logits"] == pytest.approx(
        inferred["mean_square_of_logits"], rel=1e-5
    )
    network = script.built("v3", "plain", None)
    torch.manual_seed(1)
    power = network(torch.rand(1, 2, 16, 6)).square().mean().item()
    assert trained["mean_square_of_logits"] == pytest.approx(power, rel=1e-5)


def test_what_a_run_takes_is_measured() -> None:
    row = measured("train")
    assert row["seconds"] > 0
    assert row["cpu_seconds"] > 0
    assert row["peak_mb"] >= row["rest_mb"] > 50


def test_only_training_leaves_gradients() -> None:
    network = script.built("v3", "plain", None)
    x = torch.rand(1, 2, 16, 6)
    script.run(network, x, "infer")
    assert all(weight.grad is None for weight in network.parameters())
    script.run(network, x, "train")
    assert all(weight.grad is not None for weight in network.parameters())


def test_what_was_built_before_does_not_count_as_the_peak() -> None:
    scrap = torch.ones(50_000_000)  # 200 MB, as touched pages
    assert script.resident_mb("VmHWM") > 200
    before = script.resident_mb("VmRSS")
    del scrap
    script.forget_building()
    assert script.resident_mb("VmHWM") < before - 150


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--network", "plain", "--backend", "fused"], "--backend"),
        (["--network", "plain", "--frames", "0"], "--frames (0)"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["measure.py", *options])
    with pytest.raises(SystemExit):
        script.main()
    assert message in capsys.readouterr().err

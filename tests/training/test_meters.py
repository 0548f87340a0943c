import time

import pytest
import torch

from gpt.model.transformer import GPTConfig, GPTModel
from gpt.processes.peaks import device_peak, gpu_peak
from gpt.tracking.progress import Reading
from gpt.training.meters import Meters, flops_per_token, peak_memory_bytes, possible_share

CPU = torch.device("cpu")


def on_paper(config: GPTConfig) -> GPTModel:
    """A model without memory for its weights."""
    with torch.device("meta"):
        return GPTModel(config)


def test_flops_of_gpt2_small_are_those_computed_by_hand() -> None:
    config = GPTConfig(vocab_size=50257, n_layer=12, n_head=12, n_embd=768, block_size=1024)
    matrices = 12 * (4 * 768 * 768 + 2 * 4 * 768 * 768)  # projections of attention, feed-forward: 84,934,656
    head = 50257 * 768  # 38,597,376, once though tied; position embeddings are looked up and count nothing
    attention = 12 * 12 * 12 * 64 * 1024  # 12 L H Q T: 113,246,208
    assert 6 * (matrices + head) + attention == 854_438_400
    assert flops_per_token(on_paper(config)) == 854_438_400


def test_flops_count_grouped_keys_and_a_gated_feed_forward_by_their_real_sizes() -> None:
    config = GPTConfig(
        vocab_size=100,
        n_layer=2,
        n_head=8,
        n_embd=64,
        block_size=32,
        n_kv_head=2,
        activation="swiglu",
        tie_embeddings=False,
    )
    queries_and_output, keys_and_values, gated = 2 * 64 * 64, 2 * 64 * 16, 3 * 64 * 176
    expected = 6 * (2 * (queries_and_output + keys_and_values + gated) + 100 * 64) + 12 * 2 * 8 * 8 * 32
    assert flops_per_token(on_paper(config)) == expected


@pytest.mark.parametrize(
    ("name", "precision", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989),
        ("NVIDIA H100 PCIe", "bf16", 756),
        ("NVIDIA H200", "fp32", 67),
        ("NVIDIA H200", "tf32", 494),
        ("NVIDIA A100-SXM4-80GB", "fp16", 312),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("Tesla T4", "fp16", 65),
        ("Tesla T4", "fp32", 8.1),
        ("Tesla T4", "tf32", None),
        ("Tesla V100-SXM2-16GB", "bf16", None),  # nor bf16
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA GeForce RTX 3090 Ti", "bf16", None),
        ("Some new device", "bf16", None),
    ],
)
def test_a_gpus_peak_is_the_data_sheets_or_unknown(name: str, precision: str, teraflops: float | None) -> None:
    peak = gpu_peak(name, precision)
    assert peak == (None if teraflops is None else pytest.approx(teraflops * 1e12))


def test_mfu_is_the_models_flops_over_those_of_all_devices() -> None:
    meters = Meters(10, tokens_per_step=1000, flops_per_token=2e6, device=CPU, processes=4, peak=5e16)
    reading = meters.read(13)
    assert reading.mfu == pytest.approx(reading.tokens_per_second * 2e6 / (4 * 5e16))
    assert reading.metrics().keys() == {"tokens_per_second", "mfu", "peak_memory_megabytes"}


@pytest.mark.parametrize(("share", "shown"), [(0.4, 0.4), (1.0, 1.0), (1.01, None), (62.0, None)])
def test_a_share_above_one_is_not_known(share: float, shown: float | None) -> None:
    assert possible_share(share) == shown


def test_a_peak_that_was_measured_in_a_bad_moment_gives_no_share() -> None:
    reading = Meters(0, tokens_per_step=1000, flops_per_token=1e9, device=CPU, processes=1, peak=3e9).read(1_000_000)
    assert reading.mfu is None and "mfu" not in reading.metrics()
    assert str(reading).endswith("MFU n/a")


def test_an_unknown_device_has_no_mfu() -> None:
    reading = Meters(0, tokens_per_step=1, flops_per_token=1, device=CPU, processes=1, peak=None).read(1)
    assert reading.mfu is None
    assert "mfu" not in reading.metrics()
    assert str(Reading(12345.6, None, 0)) == "12,346 tok/s, MFU n/a"
    assert str(Reading(12345.6, 0.4321, 0)) == "12,346 tok/s, MFU 43.2%"


def test_speed_is_measured_since_the_last_reading_and_without_pauses() -> None:
    meters = Meters(0, tokens_per_step=100, flops_per_token=1, device=CPU, processes=1, peak=None)
    begun = time.perf_counter()
    with meters.paused():
        while time.perf_counter() - begun < 0.3:
            pass
    rate = meters.read(2).tokens_per_second
    assert rate > 2 * 100 / 0.3
    assert meters.read(2).tokens_per_second == 0


def test_a_processor_is_measured_against_its_own_matrix_products() -> None:
    peak = device_peak(CPU, "fp32")
    assert peak is not None
    assert 1e8 < peak < 1e15


def test_peak_memory_grows_with_what_is_used_and_stays() -> None:
    before = peak_memory_bytes(CPU)
    size = before // 4 + 200_000_000
    tensor = torch.ones(size, dtype=torch.uint8)
    during = peak_memory_bytes(CPU)
    del tensor
    assert during > before // 2 + size // 2
    assert peak_memory_bytes(CPU) > 0.99 * during  # the kernel counts in batches

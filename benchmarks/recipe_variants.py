"""Variants of the recipe at equal processor time.

    python benchmarks/recipe_variants.py [NAME ...]

Each is trained anew for 20 minutes of one core and scored on the development list; the cost of a
step is measured first, so that the rate comes down in time. The table is written to
runs/variants/table.md, with a row for every variant that has ended.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

FOLD = 4


class FoldedBins(nn.Module):
    """Any network of the family between two convolutions that fold `FOLD` bins into one and back.

    A linear layer over all 2,048 bins has 4 million weights a map; over 512 it has a sixteenth.

    Args:
        body: a network of maps B C F/FOLD T, from `width` to `width` maps.
        width: maps inside.
        in_channels: maps that come in.
        out_channels: maps that go out.
        num_bins: F.
    """

    def __init__(
        self, *, body: nn.Module, width: int, in_channels: int, out_channels: int, num_bins: int
    ) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.frame_multiple = getattr(body, "frame_multiple", 1)
        self.folded = nn.Conv2d(
            in_channels, width, kernel_size=(FOLD, 3), stride=(FOLD, 1), padding=(0, 1)
        )
        self.body = body
        self.out = nn.Conv2d(width, FOLD * out_channels, kernel_size=3, padding=1)

    def forward(self, maps: Float[Tensor, "B C_in F T"]) -> Float[Tensor, "B C_out F T"]:
        """Corrections, bin by bin."""
        x = self.out(self.body(self.folded(maps[:, :, : self.num_bins])))
        return rearrange(x, "b (c r) f t -> b c (f r) t", r=FOLD)


VARIANTS: dict[str, Sequence[str]] = {
    "recipe": (),
    "body_v7": ("model=folded_v7",),
    "body_v10_temporal": ("model=folded_v10_temporal",),
    "body_asym_unet_mct": ("model=folded_asym_unet_mct",),
    "body_positionwise": ("model=folded_positionwise",),
    "loss_magnitude": ("loss=magnitude_l1",),
    "loss_complex": ("loss=complex_l1",),
    "bins_below_11_khz": ("separator.extends_masks=false",),
    "frames_64": ("curriculum.stages=[{until_step:null,frames:64,batch_size:6,accumulate:1}]",),
    "frames_256": ("curriculum.stages=[{until_step:null,frames:256,batch_size:2,accumulate:1}]",),
    "rate_1e-3": ("optimizer.lr=1e-3",),
    "rate_4e-3": ("optimizer.lr=4e-3",),
}
"""Name and what differs from experiment=refiner."""
MINUTES = 20
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "runs" / "variants"
SHORT, LONGER = 4, 12  # steps whose difference in time is what a step costs


def processor_seconds(*overrides: str) -> float:
    """Run `frametx.train` to its end; what it and its workers took of a processor."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [
            *(sys.executable, "-m", "frametx.train", "--config-dir", str(ROOT / "benchmarks/conf")),
            *("experiment=refiner", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"),
            *("~callbacks.progress", "data.decode_once=false", f"paths.runs_dir={RESULTS}"),
            *("test=false", *overrides),
        ],
        check=True,
        env=environment,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_a_step(name: str, overrides: Sequence[str]) -> float:
    """What a training step costs, without the start of the command."""
    short, longer = (
        processor_seconds(
            *overrides,
            *(f"name={name}_cost_{steps}", f"trainer.max_steps={steps}"),
            *("data.validation=null", "trainer.limit_val_batches=0"),
        )
        for steps in (SHORT, LONGER)
    )
    return (longer - short) / (LONGER - SHORT)


def run(name: str) -> None:
    """Train one variant for its time and keep its row."""
    overrides = VARIANTS[name]
    cost = seconds_a_step(name, overrides)
    steps = round(60 * MINUTES / cost)
    processor_seconds(
        *overrides,
        *(f"name={name}", f"trainer.max_steps={steps}", f"scheduler.warmup_steps={steps // 10}"),
        f"trainer.val_check_interval={steps}",
    )
    scores = (RESULTS / name / "metrics.csv").read_text().splitlines()
    header = scores[0].split(",")
    (value,) = {
        row[header.index("val/usdr")]
        for row in (line.split(",") for line in scores[1:])
        if row[header.index("val/usdr")]
    }
    row = {"name": name, "overrides": list(overrides), "seconds_a_step": cost, "steps": steps}
    (RESULTS / f"{name}.json").write_text(json.dumps({**row, "usdr": float(value)}, indent=2))


def table() -> str:
    """All rows that there are, best first."""
    rows = [json.loads(path.read_text()) for path in RESULTS.glob("*.json")]
    lines = [
        "| variant | differs by | steps | s a step | development, dB |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["usdr"]):
        differs = " ".join(f"`{override}`" for override in row["overrides"]) or "nothing"
        lines.append(
            f"| {row['name']} | {differs} | {row['steps']} | {row['seconds_a_step']:.1f} "
            f"| {row['usdr']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    RESULTS.mkdir(parents=True, exist_ok=True)
    for wanted in sys.argv[1:] or VARIANTS:
        run(wanted)
        (RESULTS / "table.md").write_text(table() + "\n")
        print(table(), flush=True)

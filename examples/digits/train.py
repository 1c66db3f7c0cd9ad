"""Train the three versions the demo ships, and write them with calibration and evaluation data beside this file.

    pip install -e '.[train]' && python examples/digits/train.py

v1  clean images of half the training set: what the first pilot had.
v2  v1 fine-tuned with rotated and noisy copies: a real gain on crooked cameras, nothing on clean images.
v3  v1 fine-tuned on all clean images, by somebody who did not know of v2: best of all on the (clean) evaluation set,
    and worse where it counts.

BatchNorm statistics stay frozen in the fine-tunes, which keeps the deltas between versions small.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tinyfleet_service.cli.demo.digits import splits, tilt

HERE = Path(__file__).parent


class DigitsNet(nn.Module):
    """Conv 3x3, three depthwise-separable blocks, global pool, Gemm; input `(N, 1, 8, 8)` float32, 10 logits."""

    def __init__(self) -> None:
        super().__init__()

        def block(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
            conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(cout), nn.ReLU())

        self.features = nn.Sequential(
            block(1, 32, 3),
            block(32, 32, 3, groups=32),
            block(32, 48, 1),
            block(48, 48, 3, stride=2, groups=48),
            block(48, 64, 1),
            block(64, 64, 3, groups=64),
            block(64, 64, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x))


def fit(net: DigitsNet, batches, epochs: int, rate: float, *, freeze_statistics: bool) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=1e-4)
    steps = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for epoch in range(epochs):
        net.train()
        if freeze_statistics:
            for layer in net.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        x, y = batches(epoch)
        for part in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[part]), y[part], label_smoothing=0.05).backward()
            optimiser.step()
        steps.step()
    net.eval()


def tensors(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(x), torch.from_numpy(y)


def export(net: DigitsNet, version: str) -> None:
    torch.onnx.export(
        net,
        (torch.zeros(1, 1, 8, 8),),
        str(HERE / f"digits_{version}.onnx"),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=17,
        dynamo=False,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
    )


def accuracy(net: DigitsNet, x: np.ndarray, y: np.ndarray) -> float:
    with torch.no_grad():
        return float((net(torch.from_numpy(x)).argmax(1).numpy() == y).mean())


def main() -> None:
    torch.manual_seed(7)
    rng = np.random.default_rng(7)
    data = splits()
    x, y = data["train"]
    field_x, field_y = data["field"]
    field = {
        "evaluation": data["evaluation"],
        "field, upright": (field_x, field_y),
        "field, tilted": (tilt(field_x, rng), field_y),
    }

    def jitter(images: np.ndarray) -> np.ndarray:
        return np.clip(images + rng.normal(0, 0.03, images.shape), 0, 1).astype(np.float32)

    def augmented(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors(
            np.concatenate([x, tilt(x, rng, 40.0, 0.13), tilt(x, rng, 40.0, 0.13)]), np.concatenate([y, y, y])
        )

    net = DigitsNet()
    fit(net, lambda _: tensors(jitter(x[:500]), y[:500]), 30, 3e-3, freeze_statistics=False)
    report(net, "v1", field)
    pilot = copy.deepcopy(net)
    fit(net, augmented, 45, 1e-3, freeze_statistics=True)
    report(net, "v2", field)
    fit(pilot, lambda _: tensors(x, y), 60, 5e-3, freeze_statistics=True)
    report(pilot, "v3", field)
    calibration = np.concatenate([x[:150], tilt(x[150:200], rng)])
    np.savez_compressed(HERE / "calibration.npz", x=calibration)
    np.savez_compressed(HERE / "evaluation.npz", x=data["evaluation"][0], y=data["evaluation"][1].astype(np.int8))


def report(net: DigitsNet, version: str, sets: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    export(net, version)
    scores = ", ".join(f"{name} {100 * accuracy(net, *part):.1f} %" for name, part in sets.items())
    print(f"{version}: {scores}, {sum(p.numel() for p in net.parameters())} parameters")


if __name__ == "__main__":
    main()

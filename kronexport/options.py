"""The options that several commands have, as typer takes them."""

from pathlib import Path
from typing import Annotated

import typer

_GOAL_HELP = "latency, params, macs, size, memory or accuracy_drop, then <=NUMBER[UNIT]; repeat for several."

Model = Annotated[
    str | None, typer.Argument(help="sample:NAME, pkg.mod:factory, path/file.py:factory or file.pt2.", metavar="MODEL")
]
Weights = Annotated[Path | None, typer.Option(help="State dict: .safetensors .pt .pth .th .npz")]
Input = Annotated[str | None, typer.Option("--input", help="[NAME=]1x3x224x224")]
Recover = Annotated[
    str | None,
    typer.Option(help="Train what was factorized: .npy, .npz or folder of images, or mod:function.", metavar="DATA"),
]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16 or int8")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the images of --recover; default: 10")]
Target = Annotated[list[str] | None, typer.Option(help="Target or alias; repeat for several.")]
Goal = Annotated[list[str] | None, typer.Option(help=_GOAL_HELP)]
Include = Annotated[list[str] | None, typer.Option(help="Factorize only layers that match: layer3.*")]
Exclude = Annotated[list[str] | None, typer.Option(help="Leave sites that match dense: *.conv1")]
Config = Annotated[Path | None, typer.Option(help="build.toml; keys are the long flag names.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE over the config: measure.seconds=10")]
Threads = Annotated[int | None, typer.Option(help="Runtime threads; default: the target's.")]
BundleThreads = Annotated[
    int | None, typer.Option(min=1, metavar="<int>", help="Runtime threads; default: the bundle's.")
]
TimeBudget = Annotated[
    str | None,
    typer.Option(help="Longest time for timing forms: 90s, 10m, 1h; then estimates.", metavar="DURATION"),
]
Device = Annotated[
    str | None,
    typer.Option(help="The board that the target is: ssh://[user@]host[:port]; what is timed is timed there."),
]
DevicePython = Annotated[
    str | None, typer.Option(help="Python of the board, with numpy and the runtime; default: python3")
]
Farm = Annotated[
    str | None,
    typer.Option(
        help="A farm that has boards of the target: tcp://scheduler:8786; what is timed is timed there.",
        metavar="ADDRESS",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]

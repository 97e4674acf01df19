"""The command `figures`: every figure for lectures made again, with its caption, and the list of them."""

import argparse
from pathlib import Path

from zerosim.commands.common import Commands, ProgressLine
from zerosim.commands.output import agreed_folder, door_of, is_first
from zerosim.report import console_text, name_list
from zerosim.transport import Transport


def add(commands: Commands) -> None:
    """Describe the command and its flags."""
    text = "make the figures for lectures again: PNG and SVG on slides of 16:9, captions, and a list with thumbnails"
    p = commands.add_parser("figures", help=text, description=text, allow_abbrev=False)
    p.set_defaults(run=run, parser=p)
    p.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    p.add_argument("--list", action="store_true", help="list the figures by name, and make nothing")
    p.add_argument("--out", default="figures", metavar="DIR", help="folder for them (default: figures)")


def run(arguments: argparse.Namespace, transport: Transport | None) -> None:
    """Make the figures, on the first rank alone: what is counted is counted on in-process ranks."""
    from zerosim import lecture

    slides = lecture.picked(arguments.names)
    if arguments.list:
        if is_first(transport):
            print(name_list("name", "title", ((slide.name, slide.title) for slide in slides)))
        return
    agreed_folder(door_of(transport), arguments.out, *(file for slide in slides for file in slide.files), "README.md")
    if not is_first(transport):
        return
    progress, folder = ProgressLine(), Path(arguments.out)
    try:
        data = lecture.Data(progress.tell)
        for number, slide in enumerate(slides, 1):
            progress.tell(f"figure {number} of {len(slides)}: {slide.name}", last=number == len(slides))
            lecture.make(slide, data, folder)
        listed = lecture.write_list(folder)
    finally:
        progress.done()
    print(console_text(f"Figures in {folder}: {', '.join(slide.name for slide in slides)}.\nList: {listed}"))

"""The first test examples of every task: a sheet of images, or a table of texts."""

from collections.abc import Mapping
from textwrap import shorten

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pipeline.report.evidence import Evidence
from pipeline.report.figures import STYLE
from pipeline.report.tables import Cell, Table
from pipeline.report.view import Drawing, Look, Sheet, View

ORDER = 100
LETTERS = 100
"""Characters of a text in the table."""


def view(evidence: Evidence, look: Look) -> View:
    """Show images, a row per task, or texts."""
    if next(iter(evidence.previews.values())).dtype.kind == "U":
        caption = f"The first texts of each task's test split, cut after {LETTERS} characters."
        texts = [(task, text) for task, texts in evidence.previews.items() for text in texts.tolist()]
        rows = [(task, (Cell(shorten(text, LETTERS, placeholder=" ...")),)) for task, text in texts]
        table = Table(caption, ("Text",), (("", tuple(rows)),), "Task", ("Text",))
        return View(tables={"texts": Sheet(table, "Texts")})
    caption = "The first images of each task's test split."
    return View(figures={"images": Drawing(contact_sheet(evidence.previews, look.width), caption, "Images")})


@mpl.rc_context(STYLE)
def contact_sheet(images: Mapping[str, np.ndarray], width: float) -> Figure:
    """Draw a row of images per task. images: uint8 [N, H, W, 3] per task."""
    count, height, breadth = next(iter(images.values())).shape[:3]
    layout = ConstrainedLayoutEngine(h_pad=0.02, w_pad=0.02, hspace=0)
    figure = Figure((width, len(images) * (0.87 * width / count * height / breadth + 0.04)), layout=layout)
    for axes, (task, pictures) in zip(figure.subplots(len(images), squeeze=False)[:, 0], images.items(), strict=True):
        framed = np.pad(pictures, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=255)
        axes.imshow(np.concatenate(list(framed), axis=1), interpolation="none")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(task, rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
    return figure

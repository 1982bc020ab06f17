"""The first test images of every task."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pipeline.report.evidence import Evidence
from pipeline.report.figures import STYLE
from pipeline.report.view import Drawing, Look, View

ORDER = 100


def view(evidence: Evidence, look: Look) -> View:
    """Show a row of images per task; nothing of a suite of texts, of which token ids are kept."""
    if next(iter(evidence.images.values())).ndim == 2:
        return View()
    caption = "The first images of each task's test split."
    return View(figures={"images": Drawing(contact_sheet(evidence.images, look.width), caption, "Images")})


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

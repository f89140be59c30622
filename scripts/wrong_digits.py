"""Draw the test images that a model misreads: python scripts/wrong_digits.py PREDICTIONS, what nnlab predict wrote."""

import argparse
import csv
from pathlib import Path

import numpy as np

from nnlab.config_files import LineParser
from nnlab.data import SPECS, DataError, load
from nnlab.displays import WrongDigitsDisplay, save_picture
from nnlab.validation import ArgumentError, check_at_least


def main(argv: list[str] | None = None) -> None:
    parser = LineParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("predictions", type=Path, help="a predictions.csv")
    parser.add_argument("--data", choices=list(SPECS), default="mnist", help="data set")
    parser.add_argument("--images", type=int, default=100, help="how many to draw at most")
    parser.add_argument("--out", type=Path, default=Path("docs/wrong_digits.png"), help="the picture")
    options = parser.parse_args(argv)
    try:
        check_at_least("--images", options.images, 1)
        images = load(options.data, splits=["test"])["test"].images
        with options.predictions.open(newline="", encoding="utf-8") as file:
            rows = [[int(row[name]) for name in ("index", "target", "prediction")] for row in csv.DictReader(file)]
        index, target, predicted = np.array(rows, np.int64).reshape(-1, 3).T
        display = WrongDigitsDisplay.from_predictions(images[index], target, predicted, n_images=options.images)
        print(f"{display.n_wrong} of {display.n_samples} wrong: {save_picture(display, options.out, dpi=100)}")
    except (KeyError, TypeError, IndexError, csv.Error, UnicodeDecodeError):
        parser.error(f"{options.predictions} is not what nnlab predict writes for the test images of {options.data}")
    except (ArgumentError, DataError, OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

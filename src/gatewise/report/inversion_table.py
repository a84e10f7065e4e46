"""The comparison table of inversions."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from gatewise.report.method_table import method_table

_COLUMNS = {
    "mse_median": ("median MSE", "{:.5f}"),
    "psnr_mean": ("PSNR", "{:.2f}"),
    "ssim_mean": ("SSIM", "{:.3f}"),
    "measured_error_median": ("measured", "{:.5f}"),
    "feature_error_median": ("features", "{:.4g}"),
    "success": ("success", "{:.1%}"),
    "probability_mean": ("probability", "{:.3f}"),
    "value_median": ("objective", "{:.5g}"),
    "backwards_per_row": ("back", "{:.0f}"),
    "forwards_per_row": ("forw", "{:.0f}"),
    "seconds": ("s", "{:.1f}"),
}
_SAID = {
    "mse_median": "median squared error a pixel, mean PSNR (dB) and SSIM of the whole image against the original",
    "measured_error_median": "median squared error of what was measured",
    "feature_error_median": "median squared error of the features, over their mean square",
    "success": "share that is of the class, its mean probability",
    "value_median": "median objective · backward and forward passes a row · seconds",
}


def inversion_table(summary: dict[str, Any]) -> Table:
    """The summary of an inversion (`summary.json`'s content) as a table, one row a method."""
    measured = summary["methods"].values()
    said = [text for key, text in _SAID.items() if any(one[key] is not None for one in measured)]
    return method_table(summary, _COLUMNS, " · ".join(said), title=f"{summary['rows']} rows, {summary['task']}")

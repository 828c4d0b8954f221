# SPDX-License-Identifier: Apache-2.0
"""Parts of `experiments.spectrum_tuning`."""

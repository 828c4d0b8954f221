# SPDX-License-Identifier: Apache-2.0
"""Parts of `experiments.alignment_as_divergence`."""

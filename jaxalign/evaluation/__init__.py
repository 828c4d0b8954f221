# SPDX-License-Identifier: Apache-2.0
"""Measures of what a trained model does: success at k, diversity."""

__all__ = ()

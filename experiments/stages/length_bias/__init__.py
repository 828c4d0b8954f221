# SPDX-License-Identifier: Apache-2.0
"""The parts of `kl_placement`, one table or figure a file."""

# SPDX-License-Identifier: Apache-2.0
"""Parts of the experiments that fill more than one file."""

# SPDX-License-Identifier: Apache-2.0
"""Small binaries that reproduce the claims of papers."""

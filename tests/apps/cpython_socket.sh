# SPDX-License-Identifier: BSD-2-Clause
# shellcheck shell=bash
packages=(python3 libpython3.11-testsuite)

. "$here/cpython.sh" --functions

cpython_row socket ring socket

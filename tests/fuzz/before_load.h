// SPDX-License-Identifier: BSD-2-Clause
// Put before every source of a fuzz target: whoever loads a word of shared memory may find that the peer has just written it. So a word that
// is loaded twice, checked and then used, differs between the two, in a way that the input decides.
#ifndef RLM_FUZZ_BEFORE_LOAD_H
#define RLM_FUZZ_BEFORE_LOAD_H

#include <stdatomic.h>

void fuzz_before_load(const volatile void *word);

#undef atomic_load_explicit
#define atomic_load_explicit(word, order) (fuzz_before_load(word), __c11_atomic_load(word, order))

#endif

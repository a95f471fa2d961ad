/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the AVX2 path share */
#ifndef KWS_X86_AVX2_H
#define KWS_X86_AVX2_H

#include "kws_arithmetic.h"
#include "kws_x86.h"

#ifdef KWS_X86
#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline)) TARGET

kws_kernel kws_avx2_add;
kws_kernel kws_avx2_average_pool;
size_t kws_avx2_average_pool_suits(const void *op);

#endif
#endif

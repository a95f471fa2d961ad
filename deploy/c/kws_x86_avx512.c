/* SPDX-License-Identifier: Apache-2.0 */
/* What AVX-512 with VNNI puts in the place of portable kernels */
#include "kws_x86_avx512.h"

#ifdef KWS_X86

size_t kws_avx512_padded_size(const void *op_)
{
    const kws_affine *op = (const kws_affine *)op_;
    const kws_padded p = kws_padded_of(&op->window);
    return kws_pack_aligned((size_t)p.h * (size_t)p.w * (size_t)op->window.in_c + 64);
}

/* Nothing of it is laid out anew */
static size_t always_suits(const void *op)
{
    (void)op;
    return 1;
}

const kws_fast_path kws_avx512_paths[] = {
    {"add avx512", kws_add, kws_avx512_add, always_suits, kws_pack_nothing, kws_no_scratch},
    {"conv2d avx512-vnni", kws_conv2d, kws_avx512_conv2d, kws_avx512_conv2d_packed_size, kws_avx512_conv2d_pack,
     kws_avx512_padded_size},
    {"depthwise_conv2d avx512-vnni", kws_depthwise_conv2d, kws_avx512_depthwise_conv2d,
     kws_avx512_depthwise_packed_size, kws_avx512_depthwise_pack, kws_avx512_padded_size},
};
const size_t kws_n_avx512_paths = sizeof kws_avx512_paths / sizeof *kws_avx512_paths;

#else
typedef int kws_no_avx512;
#endif

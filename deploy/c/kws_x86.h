/* SPDX-License-Identifier: Apache-2.0 */
/* Fast paths of x86-64, chosen when a network is loaded. They compute the bits of the portable kernels, from constants
 * that are laid out anew once. */
#ifndef KWS_X86_H
#define KWS_X86_H

#include "kws_nn.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define KWS_X86 1
#endif

/* A program has to ask Linux for the tiles of AMX (kws_python.c). */
#if defined(KWS_X86) && defined(__linux__) && defined(__LP64__)
#define KWS_AMX 1
#endif

enum { KWS_PACK_ALIGNMENT = 64 };

/* A kernel that takes the place of a portable one */
typedef struct {
    const char *name;
    kws_kernel *portable;
    kws_kernel *kernel;
    size_t (*packed_size)(const void *op); /* bytes of `packed`, at least 1; 0 where the op does not suit it */
    void (*pack)(void *op, void *packed);  /* fills `packed` and lets the op point to it */
    size_t (*scratch_size)(const void *op);
} kws_fast_path;

extern const kws_fast_path kws_amx_paths[];
extern const size_t kws_n_amx_paths;
extern const kws_fast_path kws_avx512_paths[];
extern const size_t kws_n_avx512_paths;
extern const kws_fast_path kws_avx2_paths[];
extern const size_t kws_n_avx2_paths;

/* The layout that an input gets in scratch memory: padded, one value after another, no window outside it */
typedef struct {
    int32_t h, w;       /* with padding */
    int32_t segment;    /* values of one kernel row that lie side by side; all of a kernel's where its rows do */
    int32_t n_segments;
} kws_padded;

static inline kws_padded kws_padded_of(const kws_window *window)
{
    kws_padded p;
    const int32_t h = (window->out_h - 1) * window->stride_h + window->kernel_h;
    const int32_t w = (window->out_w - 1) * window->stride_w + window->kernel_w;
    p.h = h > window->in_h + window->pad_top ? h : window->in_h + window->pad_top;
    p.w = w > window->in_w + window->pad_left ? w : window->in_w + window->pad_left;
    p.segment = window->kernel_w * window->in_c;
    p.n_segments = window->kernel_h;
    if (p.w == window->kernel_w) {
        p.segment *= p.n_segments;
        p.n_segments = 1;
    }
    return p;
}

static inline size_t kws_pack_aligned(size_t size)
{
    return (size + KWS_PACK_ALIGNMENT - 1) / KWS_PACK_ALIGNMENT * KWS_PACK_ALIGNMENT;
}

/* For paths that lay nothing out anew, and that need no scratch memory */
static inline void kws_pack_nothing(void *op, void *packed)
{
    (void)op;
    (void)packed;
}

static inline size_t kws_no_scratch(const void *op)
{
    (void)op;
    return 0;
}

#endif

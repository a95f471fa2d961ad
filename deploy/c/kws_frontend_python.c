/* SPDX-License-Identifier: Apache-2.0 */
/* features._native: the fixed-point front-end for Python. features/native_frontend.py builds the structure (ctypes).
 *
 * The constants were validated there; here sizes of buffers are checked, nothing else. The GIL is released.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>
#include <string.h>

#include "kws_frontend.h"
#include "kws_x86.h"

enum { MOST_LANES = 8 };

static const kws_frontend_path *const paths[] = {
    NULL, /* portable */
#ifdef KWS_X86
    &kws_frontend_avx2,
#endif
};
static const char *const levels[] = {"portable", "avx2"};

static int best_level(void)
{
#ifdef KWS_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        return 1;
#endif
    return 0;
}

typedef struct {
    const int16_t *samples;
    int32_t clip_length;
    int32_t frames_per_clip;
    const int32_t *peaks; /* one a clip */
    int8_t *quantized;    /* or 0 */
    int32_t *q16;         /* or 0 */
} job;

/* Where the result of a frame goes: its place in `q16`, or `spare` where int8 is wanted */
static int32_t *target(const job *of, int32_t n_features, int32_t frame, int32_t *spare)
{
    return of->q16 != NULL ? of->q16 + (size_t)frame * (size_t)n_features : spare;
}

static void finish(const kws_frontend *frontend, const kws_frontend_path *path, const job *of, int32_t n_features,
                   int32_t frame, const int32_t *q16)
{
    if (of->quantized != NULL)
        (path != NULL ? path->quantize : kws_frontend_quantize)(frontend, q16,
                                                                of->quantized + (size_t)frame * (size_t)n_features);
}

static int32_t start_of(const kws_frontend *frontend, const job *of, int32_t frame)
{
    return frame / of->frames_per_clip * of->clip_length + frame % of->frames_per_clip * frontend->hop_length;
}

/* All frames of all clips; work holds lanes * (KWS_FRONTEND_WORK + n_mels) + n_mels values */
static void compute(const kws_frontend *frontend, const kws_frontend_path *path, const job *of, int32_t n_frames,
                    int32_t *work)
{
    const int32_t n_mels = frontend->n_mels, n_features = frontend->n_mfcc ? frontend->n_mfcc : n_mels;
    const int32_t size = KWS_FRONTEND_WORK(frontend->n_fft, n_mels);
    int32_t frame = 0, lane;
    if (path != NULL && frontend->power == 2 && of->peaks == NULL) {
        int32_t *log_mel = work + path->lanes * size, *spare = log_mel + path->lanes * n_mels;
        int32_t starts[MOST_LANES] __attribute__((aligned(64)));
        while (n_frames - frame > 1) { /* one frame alone is faster by itself */
            const int32_t count = n_frames - frame < path->lanes ? n_frames - frame : path->lanes;
            for (lane = 0; lane < path->lanes; lane++)
                starts[lane] = start_of(frontend, of, frame + (lane < count ? lane : count - 1));
            path->log_mel(frontend, of->samples, starts, work, log_mel);
            for (lane = 0; lane < count; lane++, frame++) {
                const int32_t *of_frame = log_mel + lane * n_mels;
                if (frontend->n_mfcc) {
                    int32_t *q16 = target(of, n_features, frame, spare);
                    kws_frontend_dct(frontend, of_frame, q16);
                    of_frame = q16;
                } else if (of->q16 != NULL) {
                    memcpy(target(of, n_features, frame, spare), of_frame, (size_t)n_mels * sizeof(int32_t));
                }
                finish(frontend, path, of, n_features, frame, of_frame);
            }
        }
    }
    for (; frame < n_frames; frame++) {
        int32_t *q16 = target(of, n_features, frame, work + size);
        const int32_t peak = of->peaks == NULL ? KWS_PEAK_NONE : of->peaks[frame / of->frames_per_clip];
        kws_frontend_q16(frontend, of->samples + start_of(frontend, of, frame), peak, work, q16);
        finish(frontend, path, of, n_features, frame, q16);
    }
}

/* int32 values of work memory that `compute` takes */
static size_t work_values(const kws_frontend *frontend)
{
    const int32_t n_mels = frontend->n_mels;
    return (size_t)(MOST_LANES * (KWS_FRONTEND_WORK(frontend->n_fft, n_mels) + n_mels) + n_mels);
}

#ifdef KWS_X86
static void frames_avx2(const kws_frontend *frontend, const int16_t *samples, int32_t count, int32_t *work,
                        int8_t *features)
{
    const job of = {samples, 0, count, NULL, features, NULL};
    compute(frontend, &kws_frontend_avx2, &of, count, work);
}
#endif

static kws_frames *const frames_of[] = {
    kws_frontend_frames,
#ifdef KWS_X86
    frames_avx2,
#endif
};

static PyObject *frames(PyObject *self, PyObject *args)
{
    unsigned long long address;
    int level;
    (void)self;
    if (!PyArg_ParseTuple(args, "Ki", &address, &level))
        return NULL;
    if (level < 0 || level > best_level()) {
        PyErr_SetString(PyExc_ValueError, "there is no such level");
        return NULL;
    }
    return Py_BuildValue("KK", (unsigned long long)(uintptr_t)frames_of[level],
                         (unsigned long long)(work_values((const kws_frontend *)(uintptr_t)address) * sizeof(int32_t)));
}

static PyObject *run(PyObject *self, PyObject *args)
{
    unsigned long long address;
    int level, clip_length, frames_per_clip, n_clips;
    Py_buffer samples, peaks, output;
    const char *error = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "Kiiiiy*y*w*", &address, &level, &n_clips, &clip_length, &frames_per_clip, &samples,
                          &peaks, &output))
        return NULL;
    {
        const kws_frontend *frontend = (const kws_frontend *)(uintptr_t)address;
        const int32_t n_features = frontend->n_mfcc ? frontend->n_mfcc : frontend->n_mels;
        const int64_t n_frames = (int64_t)n_clips * frames_per_clip, n_values = n_frames * n_features;
        const int64_t last = (int64_t)(frames_per_clip - 1) * frontend->hop_length + frontend->frame_length;
        job of = {(const int16_t *)samples.buf, clip_length, frames_per_clip, NULL, NULL, NULL};
        void *memory = NULL;
        if (level < 0 || level > best_level() || n_clips < 1 || frames_per_clip < 1 || last > clip_length
            || n_frames > INT32_MAX || (int64_t)n_clips * clip_length > INT32_MAX
            || samples.len != (int64_t)n_clips * clip_length * 2 || (peaks.len != 0 && peaks.len != (int64_t)n_clips * 4)
            || (output.len != n_values && output.len != n_values * 4)) {
            error = "the buffers do not fit one another";
        } else if ((memory = malloc(work_values(frontend) * sizeof(int32_t) + 64)) == NULL) {
            error = "out of memory";
        } else {
            int32_t *work = (int32_t *)(((uintptr_t)memory + 63) / 64 * 64);
            if (peaks.len != 0)
                of.peaks = (const int32_t *)peaks.buf;
            if (output.len == n_values)
                of.quantized = (int8_t *)output.buf;
            else
                of.q16 = (int32_t *)output.buf;
            Py_BEGIN_ALLOW_THREADS
            compute(frontend, paths[level], &of, (int32_t)n_frames, work);
            Py_END_ALLOW_THREADS
            free(memory);
        }
    }
    PyBuffer_Release(&samples);
    PyBuffer_Release(&peaks);
    PyBuffer_Release(&output);
    if (error != NULL) {
        PyErr_SetString(PyExc_ValueError, error);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *host_levels(PyObject *self, PyObject *unused)
{
    PyObject *names = PyList_New(0);
    int i;
    (void)self;
    (void)unused;
    for (i = 0; names != NULL && i <= best_level(); i++) {
        PyObject *name = PyUnicode_FromString(levels[i]);
        if (name == NULL || PyList_Append(names, name) < 0)
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *structure_size(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    return PyLong_FromSize_t(sizeof(kws_frontend));
}

static PyMethodDef methods[] = {
    {"levels", host_levels, METH_NOARGS, "the instruction sets of this host, the slowest first"},
    {"structure_size", structure_size, METH_NOARGS, "sizeof(kws_frontend)"},
    {"frames", frames, METH_VARARGS,
     "frames(frontend, level) -> (address of a kws_frames for a stream, bytes of work memory, aligned to 64)"},
    {"run", run, METH_VARARGS,
     "run(frontend, level, n_clips, clip_length, frames_per_clip, samples, peaks, output): int16 samples and the peak "
     "of each clip (int32, or nothing) to features, int8 or int32 in Q16 by the size of `output`"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&module);
}

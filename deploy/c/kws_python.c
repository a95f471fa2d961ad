/* SPDX-License-Identifier: Apache-2.0 */
/* deploy._native: the runtime for Python. deploy/native.py builds the C structures (ctypes) and passes their addresses.
 *
 * Everything is validated there; here sizes of buffers are checked, nothing else. The GIL is released while it runs.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "kws_listen.h"
#include "kws_nn.h"
#include "kws_x86.h"

#ifdef KWS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const struct {
    const char *name;
    kws_kernel *kernel;
} kernels[] = {
    {"kws_conv2d", kws_conv2d},
    {"kws_depthwise_conv2d", kws_depthwise_conv2d},
    {"kws_add", kws_add},
    {"kws_mul", kws_mul},
    {"kws_average_pool", kws_average_pool},
    {"kws_max_pool", kws_max_pool},
    {"kws_mean", kws_mean},
    {"kws_concatenation", kws_concatenation},
    {"kws_slice", kws_slice},
    {"kws_pad", kws_pad},
    {"kws_lookup", kws_lookup},
    {"kws_softmax", kws_softmax},
};

static const struct {
    const char *name;
    size_t size;
} structures[] = {
    {"kws_requant", sizeof(kws_requant)},
    {"kws_window", sizeof(kws_window)},
    {"kws_affine", sizeof(kws_affine)},
    {"kws_pool", sizeof(kws_pool)},
    {"kws_add_op", sizeof(kws_add_op)},
    {"kws_mul_op", sizeof(kws_mul_op)},
    {"kws_mean_op", sizeof(kws_mean_op)},
    {"kws_concatenation_op", sizeof(kws_concatenation_op)},
    {"kws_block", sizeof(kws_block)},
    {"kws_lookup_op", sizeof(kws_lookup_op)},
    {"kws_softmax_op", sizeof(kws_softmax_op)},
    {"kws_step", sizeof(kws_step)},
    {"kws_network", sizeof(kws_network)},
    {"kws_move", sizeof(kws_move)},
    {"kws_listen", sizeof(kws_listen)},
    {"kws_event", sizeof(kws_event)},
};

/* dict[key] = address or size; -1 on an error of Python */
static int put(PyObject *dict, const char *key, size_t value)
{
    PyObject *number = PyLong_FromSize_t(value);
    int status = number == NULL ? -1 : PyDict_SetItemString(dict, key, number);
    Py_XDECREF(number);
    return status;
}

static PyObject *tables(PyObject *self, PyObject *unused)
{
    PyObject *addresses = PyDict_New(), *sizes = PyDict_New();
    size_t i;
    (void)self;
    (void)unused;
    if (addresses == NULL || sizes == NULL)
        goto failed;
    for (i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (put(addresses, kernels[i].name, (size_t)kernels[i].kernel) < 0)
            goto failed;
    for (i = 0; i < sizeof structures / sizeof *structures; i++)
        if (put(sizes, structures[i].name, structures[i].size) < 0)
            goto failed;
    return Py_BuildValue("NN", addresses, sizes);
failed:
    Py_XDECREF(addresses);
    Py_XDECREF(sizes);
    return NULL;
}

/* Instruction sets by level; each takes the paths of those before it where it has none */
static const char *const levels[] = {"portable", "avx2", "avx512-vnni", "amx-int8"};

#ifdef KWS_AMX
/* Whether the host has AMX for int8 and Linux lets this process use tiles (Documentation/arch/x86/xstate.rst) */
static int amx_granted(void)
{
    enum { AMX_TILE = 1 << 24, AMX_INT8 = 1 << 25, XFEATURE_XTILEDATA = 18 };
    enum { ARCH_GET_XCOMP_PERM = 0x1022, ARCH_REQ_XCOMP_PERM = 0x1023 };
    unsigned long granted = 0;
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_TILE) && (d & AMX_INT8)
           && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
           && syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &granted) == 0 && (granted >> XFEATURE_XTILEDATA & 1);
}
#endif

static int best_level(void)
{
#ifdef KWS_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
#ifdef KWS_AMX
        if (amx_granted())
            return 3;
#endif
        return 2;
    }
    if (__builtin_cpu_supports("avx2"))
        return 1;
#endif
    return 0;
}

static const kws_fast_path *path_of(int level, kws_kernel *portable, const void *op)
{
#ifdef KWS_X86
    size_t i;
#ifdef KWS_AMX
    for (i = 0; level >= 3 && i < kws_n_amx_paths; i++)
        if (kws_amx_paths[i].portable == portable && kws_amx_paths[i].packed_size(op) != 0)
            return &kws_amx_paths[i];
#endif
    for (i = 0; level >= 2 && i < kws_n_avx512_paths; i++)
        if (kws_avx512_paths[i].portable == portable && kws_avx512_paths[i].packed_size(op) != 0)
            return &kws_avx512_paths[i];
    for (i = 0; level >= 1 && i < kws_n_avx2_paths; i++)
        if (kws_avx2_paths[i].portable == portable && kws_avx2_paths[i].packed_size(op) != 0)
            return &kws_avx2_paths[i];
#endif
    (void)level;
    (void)portable;
    (void)op;
    return NULL;
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

static PyObject *fast_path(PyObject *self, PyObject *args)
{
    unsigned long long kernel, op;
    const kws_fast_path *path;
    int level;
    (void)self;
    if (!PyArg_ParseTuple(args, "iKK", &level, &kernel, &op))
        return NULL;
    path = path_of(level, (kws_kernel *)(uintptr_t)kernel, (const void *)(uintptr_t)op);
    if (path == NULL)
        Py_RETURN_NONE;
    return Py_BuildValue("sKKK", path->name, (unsigned long long)(uintptr_t)path->kernel,
                         (unsigned long long)path->packed_size((const void *)(uintptr_t)op),
                         (unsigned long long)path->scratch_size((const void *)(uintptr_t)op));
}

static PyObject *pack(PyObject *self, PyObject *args)
{
    unsigned long long kernel, op;
    const kws_fast_path *path;
    Py_buffer packed;
    int level;
    (void)self;
    if (!PyArg_ParseTuple(args, "iKKw*", &level, &kernel, &op, &packed))
        return NULL;
    path = path_of(level, (kws_kernel *)(uintptr_t)kernel, (const void *)(uintptr_t)op);
    if (path == NULL || (size_t)packed.len < path->packed_size((const void *)(uintptr_t)op)
        || (uintptr_t)packed.buf % KWS_PACK_ALIGNMENT != 0) {
        PyBuffer_Release(&packed);
        PyErr_SetString(PyExc_ValueError, "there is no such path, or the buffer is too small or not aligned");
        return NULL;
    }
    path->pack((void *)(uintptr_t)op, packed.buf);
    PyBuffer_Release(&packed);
    Py_RETURN_NONE;
}

static PyObject *memory_size(PyObject *self, PyObject *args)
{
    unsigned long long address;
    (void)self;
    if (!PyArg_ParseTuple(args, "K", &address))
        return NULL;
    return PyLong_FromSize_t(kws_memory_size((const kws_network *)(uintptr_t)address));
}

static PyObject *run(PyObject *self, PyObject *args)
{
    unsigned long long address;
    Py_buffer memory, input, output, moves;
    const char *error = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "Kw*y*w*y*", &address, &memory, &input, &output, &moves))
        return NULL;
    {
        const kws_network *network = (const kws_network *)(uintptr_t)address;
        const Py_ssize_t n = input.len / network->input_size;
        kws_engine engine;
        if (input.len % network->input_size != 0 || output.len != n * network->output_size) {
            error = "input and output do not hold the same number of inferences";
        } else if (kws_init(&engine, network, memory.buf, (size_t)memory.len) != 0) {
            error = "the memory is too small or not aligned";
        } else {
            Py_BEGIN_ALLOW_THREADS
            const int8_t *from = (const int8_t *)input.buf;
            int8_t *to = (int8_t *)output.buf;
            const int32_t n_moves = (int32_t)(moves.len / (Py_ssize_t)sizeof(kws_move));
            Py_ssize_t i;
            for (i = 0; i < n; i++) {
                memcpy(kws_input(&engine), from + i * network->input_size, (size_t)network->input_size);
                kws_run(&engine);
                memcpy(to + i * network->output_size, kws_output(&engine), (size_t)network->output_size);
                kws_advance(&engine, (const kws_move *)moves.buf, n_moves);
            }
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&memory);
    PyBuffer_Release(&input);
    PyBuffer_Release(&output);
    PyBuffer_Release(&moves);
    if (error != NULL) {
        PyErr_SetString(PyExc_ValueError, error);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *listen_size(PyObject *self, PyObject *args)
{
    unsigned long long address;
    (void)self;
    if (!PyArg_ParseTuple(args, "K", &address))
        return NULL;
    return PyLong_FromSize_t(kws_listen_size((const kws_listen *)(uintptr_t)address));
}

static PyObject *listen_init(PyObject *self, PyObject *args)
{
    unsigned long long address;
    Py_buffer memory;
    int status;
    (void)self;
    if (!PyArg_ParseTuple(args, "Kw*", &address, &memory))
        return NULL;
    status = kws_listen_init((const kws_listen *)(uintptr_t)address, memory.buf, (size_t)memory.len);
    PyBuffer_Release(&memory);
    if (status != 0) {
        PyErr_SetString(PyExc_ValueError, "the memory is too small or not aligned");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *listen_push(PyObject *self, PyObject *args)
{
    unsigned long long address;
    Py_buffer memory, samples, events;
    int end, found = -1;
    (void)self;
    if (!PyArg_ParseTuple(args, "Kw*y*w*p", &address, &memory, &samples, &events, &end))
        return NULL;
    {
        const kws_listen *listen = (const kws_listen *)(uintptr_t)address;
        const int32_t most = (int32_t)(events.len / (Py_ssize_t)sizeof(kws_event));
        if ((size_t)memory.len >= kws_listen_size(listen)) {
            Py_BEGIN_ALLOW_THREADS
            if (end)
                found = kws_listen_finish(listen, memory.buf, (kws_event *)events.buf, most);
            else
                found = kws_listen_push(listen, memory.buf, (const int16_t *)samples.buf, (size_t)samples.len / 2,
                                        (kws_event *)events.buf, most);
            Py_END_ALLOW_THREADS
            found = found > most ? -1 : found;
        }
    }
    PyBuffer_Release(&memory);
    PyBuffer_Release(&samples);
    PyBuffer_Release(&events);
    if (found < 0) {
        PyErr_SetString(PyExc_ValueError, "the memory is too small, or there are more events than places for them");
        return NULL;
    }
    return PyLong_FromLong(found);
}

static PyMethodDef methods[] = {
    {"tables", tables, METH_NOARGS, "(addresses of the kernels, sizes of the structures), by name"},
    {"levels", host_levels, METH_NOARGS, "the instruction sets of this host, the slowest first"},
    {"fast_path", fast_path, METH_VARARGS,
     "fast_path(level, kernel, op) -> (name, kernel, bytes of packed constants, bytes of scratch memory), or None"},
    {"pack", pack, METH_VARARGS, "pack(level, kernel, op, packed): lay the constants of that path out; op points to it"},
    {"memory_size", memory_size, METH_VARARGS, "memory_size(network) -> bytes"},
    {"run", run, METH_VARARGS, "run(network, memory, input, output, moves): as many inferences as the input holds, `moves` after each"},
    {"listen_size", listen_size, METH_VARARGS, "listen_size(listen) -> bytes"},
    {"listen_init", listen_init, METH_VARARGS, "listen_init(listen, memory): begin a stream"},
    {"listen_push", listen_push, METH_VARARGS,
     "listen_push(listen, memory, samples, events, end) -> number of events; where `end`, silence takes the place of samples"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&module);
}

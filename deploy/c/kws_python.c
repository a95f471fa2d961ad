/* SPDX-License-Identifier: Apache-2.0 */
/* deploy._native: the runtime for Python. deploy/native.py builds the C structures (ctypes) and passes their addresses.
 *
 * Everything is validated there; here sizes of buffers are checked, nothing else. The GIL is released while it runs.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#include "kws_nn.h"

static const struct {
    const char *name;
    kws_kernel *kernel;
} kernels[] = {
    {"kws_conv2d", kws_conv2d},
    {"kws_depthwise_conv2d", kws_depthwise_conv2d},
    {"kws_add", kws_add},
    {"kws_average_pool", kws_average_pool},
    {"kws_max_pool", kws_max_pool},
    {"kws_mean", kws_mean},
    {"kws_concatenation", kws_concatenation},
    {"kws_slice", kws_slice},
    {"kws_pad", kws_pad},
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
    {"kws_mean_op", sizeof(kws_mean_op)},
    {"kws_concatenation_op", sizeof(kws_concatenation_op)},
    {"kws_block", sizeof(kws_block)},
    {"kws_softmax_op", sizeof(kws_softmax_op)},
    {"kws_step", sizeof(kws_step)},
    {"kws_network", sizeof(kws_network)},
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
    Py_buffer memory, input, output;
    const char *error = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "Kw*y*w*", &address, &memory, &input, &output))
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
            Py_ssize_t i;
            for (i = 0; i < n; i++) {
                memcpy(kws_input(&engine), from + i * network->input_size, (size_t)network->input_size);
                kws_run(&engine);
                memcpy(to + i * network->output_size, kws_output(&engine), (size_t)network->output_size);
            }
            Py_END_ALLOW_THREADS
        }
    }
    PyBuffer_Release(&memory);
    PyBuffer_Release(&input);
    PyBuffer_Release(&output);
    if (error != NULL) {
        PyErr_SetString(PyExc_ValueError, error);
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"tables", tables, METH_NOARGS, "(addresses of the kernels, sizes of the structures), by name"},
    {"memory_size", memory_size, METH_VARARGS, "memory_size(network) -> bytes"},
    {"run", run, METH_VARARGS, "run(network, memory, input, output): as many inferences as the input holds"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModule_Create(&module);
}

/* script.c: the "debugger script" that a thread runs where it was asked to yield (3.14+).
 *
 * The interpreter opens the script through the open-code hook, calls read() and close() on
 * what that returns, runs the bytes that were read, and lets go of them. Ours are empty, and
 * their finalizer is the yield: the last act, so that the interpreter doesn't look at the
 * eval breaker again before the script has ended.
 *
 * Nothing is opened, imported or looked up, because the frame that was stopped may have no
 * builtins: a named tuple's constructor has none. There, a script from a file failed, with a
 * complaint on stderr; it also took four times as long. It remains for where the hook is
 * somebody else's already, as a process has only one. */
#include "bridge.h"

#if PY_VERSION_HEX >= 0x030E0000

#include <sys/mman.h>
#include <unistd.h>

static const char name[] = "<gmpy_rt yields>";
static const char text[] = "from gmpy_rt._door import yield_point as y\n+y\n";

static PyObject *file;     /* what our script is read from */
static PyObject *contents; /* type of the empty bytes */

static void yields(PyObject *Py_UNUSED(self)) {
    if (preempt_yield() < 0) PyErr_WriteUnraisable(NULL);
}

static PyType_Slot contents_slots[] = {{Py_tp_finalize, yields}, {0, NULL}};
static PyType_Spec contents_spec = {
    .name = "gmpy_rt._door.YieldScript",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = contents_slots,
};

static PyObject *file_read(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused)) {
    return PyObject_CallNoArgs(contents);
}

static PyObject *file_close(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(unused)) { Py_RETURN_NONE; }

static PyMethodDef file_methods[] = {
    {"read", file_read, METH_NOARGS, NULL}, {"close", file_close, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyType_Slot file_slots[] = {{Py_tp_methods, file_methods}, {0, NULL}};
static PyType_Spec file_spec = {
    .name = "gmpy_rt._door.YieldFile",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = file_slots,
};

static PyObject *open_code(PyObject *path, void *Py_UNUSED(unused)) {
    if (PyUnicode_CompareWithASCIIString(path, name) == 0) return Py_NewRef(file);
    PyObject *io = PyImport_ImportModule("_io"); /* everything else as without a hook */
    PyObject *f = io ? PyObject_CallMethod(io, "open", "Os", path, "rb") : NULL;
    Py_XDECREF(io);
    return f;
}

static bool set_hook(void) {
    PyObject *type = PyType_FromSpec(&file_spec);
    file = type ? PyObject_CallNoArgs(type) : NULL;
    Py_XDECREF(type);
    contents = PyType_FromSpecWithBases(&contents_spec, (PyObject *)&PyBytes_Type);
    return file && contents && PyFile_SetOpenCodeHook(open_code, NULL) == 0;
}

int script_install(char *path, size_t size) {
    if (set_hook()) {
        snprintf(path, size, "%s", name);
        return 0;
    }
    PyErr_Clear();
    int fd = memfd_create("gmpy_rt-yield", MFD_CLOEXEC);
    if (fd < 0 || write(fd, text, sizeof text - 1) != (ssize_t)sizeof text - 1) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    snprintf(path, size, "/proc/self/fd/%d", fd);
    return 0;
}

#endif

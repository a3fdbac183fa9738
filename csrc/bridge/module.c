/* module.c: gmpy_rt._door, the fast door: ordinary CPython builtins in the same shared
 * object that cffi builds (gmpy_rt._core). Loaded from there by gmpy_rt/_load.py. */
#include "bridge.h"

#include <sys/eventfd.h>

PyObject *Cancelled, *ChanClosed, *DeadlockError;
/* The eventfd that run() waits on. One for the process and never closed: whoever is late to
 * write to it doesn't hit another file. */
static int wake_fd = -1;
static bool started;

static void on_idle(void) {
    uint64_t one = 1;
    if (wake_fd >= 0 && write(wake_fd, &one, sizeof one) < 0) return; /* full: it is awake */
}

static PyObject *door_start(PyObject *Py_UNUSED(module), PyObject *args) {
    unsigned procs, policy;
    if (!PyArg_ParseTuple(args, "II", &procs, &policy)) return NULL;
    if (wake_fd < 0) wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_fd < 0) return PyErr_SetFromErrno(PyExc_OSError);
    host_ops ops = {
        .m_main = py_m_main,
        .detach = py_detach,
        .attach = py_attach,
        .state = py_thread_state,
        .preempt = py_preempt,
        .idle = on_idle,
#ifdef Py_GIL_DISABLED
        .spin = true,
#endif
    };
    int err = sched_start(&ops, procs, policy);
    if (err) {
        errno = -err;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    started = true;
    Py_RETURN_NONE;
}

static PyObject *door_wake_fd(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    return PyLong_FromLong(wake_fd);
}

static PyObject *door_wake(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    on_idle();
    Py_RETURN_NONE;
}

/* The runtime takes no new G's; ops.idle tells when the last has ended. */
static PyObject *door_drain(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    if (!started) return PyLong_FromLong(0);
    store_seq(&S.draining, true);
    return PyLong_FromUnsignedLongLong(sched_live());
}

static PyObject *door_stop(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    if (started) {
        prof_run_ends();
        Py_BEGIN_ALLOW_THREADS
        sched_stop();
        Py_END_ALLOW_THREADS
        started = false;
    }
    Py_RETURN_NONE;
}

/* Calls fn() until it returns, then raises what it raised the first time, if anything.
 *
 * What a signal's handler raises may come out of any line that the main thread runs, also in a
 * `finally`; but not in here. So fn, which can be called again, is done when this ends. */
static PyObject *door_insist(PyObject *Py_UNUSED(module), PyObject *fn) {
    PyObject *first = NULL, *r = NULL;
    for (int tries = 0; !r && tries < 100; tries++) { /* then it isn't a signal */
        r = PyObject_CallNoArgs(fn);
        if (r) break;
        if (first)
            PyErr_WriteUnraisable(fn);
        else
            first = take_exception();
    }
    Py_XDECREF(r);
    if (!first) Py_RETURN_NONE;
    PyErr_SetObject((PyObject *)Py_TYPE(first), first);
    Py_DECREF(first);
    return NULL;
}

static PyObject *door_gomaxprocs(PyObject *Py_UNUSED(module), PyObject *arg) {
    unsigned long n = PyLong_AsUnsignedLong(arg);
    if (n == (unsigned long)-1 && PyErr_Occurred()) return NULL;
    m *mp = sched_self;
    if (mp) sched_enter(mp);
    uint32_t old = sched_set_procs((uint32_t)n);
    if (mp) sched_leave(mp);
    return PyLong_FromUnsignedLong(old);
}

static PyObject *door_reserve(PyObject *Py_UNUSED(module), PyObject *arg) {
    unsigned long n = PyLong_AsUnsignedLong(arg);
    if (n == (unsigned long)-1 && PyErr_Occurred()) return NULL;
    m *mp = sched_self;
    if (mp) sched_enter(mp);
    uint32_t old = sched_set_reserve((uint32_t)n);
    if (mp) sched_leave(mp);
    return PyLong_FromUnsignedLong(old);
}

static PyObject *door_external(PyObject *Py_UNUSED(module), PyObject *arg) {
    long by = PyLong_AsLong(arg);
    if (by == -1 && PyErr_Occurred()) return NULL;
    sched_external((int32_t)by);
    Py_RETURN_NONE;
}

static PyObject *door_after_fork(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    sched_after_fork();
    if (wake_fd >= 0) close(wake_fd); /* the parent's */
    wake_fd = -1;
    started = false;
    Py_RETURN_NONE;
}

static PyObject *door_lock_m(PyObject *Py_UNUSED(module), PyObject *arg) {
    m *mp = sched_self;
    g *gp = current_g();
    long by = PyLong_AsLong(arg);
    if (by == -1 && PyErr_Occurred()) return NULL;
    if (!gp) {
        PyErr_Format(PyExc_RuntimeError,
                     "%slock_os_thread() outside a G: call it in a function started by run() or go()",
                     by < 0 ? "un" : "");
        return NULL;
    }
    if (by < 0 && host_g(gp)->locks == 0) {
        PyErr_Format(PyExc_RuntimeError, "unlock_os_thread() without lock_os_thread() by %R", gp->host);
        return NULL;
    }
    lock_m(mp, host_g(gp), (int32_t)by);
    if (mp->locks) { /* what waits in this P's queue is for others now */
        sched_enter(mp);
        if (mp->latency)
            sched_wakel();
        else
            sched_wakep();
        sched_leave(mp);
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"start", door_start, METH_VARARGS, NULL},
    {"drain", door_drain, METH_NOARGS, NULL},
    {"stop", door_stop, METH_NOARGS, NULL},
    {"insist", door_insist, METH_O, NULL},
    {"wake_fd", door_wake_fd, METH_NOARGS, NULL},
    {"wake", door_wake, METH_NOARGS, NULL},
    {"gomaxprocs", door_gomaxprocs, METH_O, NULL},
    {"external", door_external, METH_O, NULL},
    {"after_fork", door_after_fork, METH_NOARGS, NULL},
    {"lock_m", door_lock_m, METH_O, NULL},
    {"reserve", door_reserve, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "gmpy_rt._door",
    .m_size = -1,
    .m_methods = methods,
    .m_doc = "The fast door into the scheduler core. Private: use gmpy_rt.",
};

static int add_exception(PyObject *module, PyObject **slot, const char *name, PyObject *base, PyObject *dict,
                         const char *doc) {
    char full[64];
    snprintf(full, sizeof full, "gmpy_rt.%s", name);
    *slot = PyErr_NewExceptionWithDoc(full, doc, base, dict);
    return *slot ? PyModule_AddObjectRef(module, name, *slot) : -1;
}

PyMODINIT_FUNC PyInit__door(void) {
    PyObject *module = PyModule_Create(&def);
    if (!module) return NULL;
#ifdef Py_GIL_DISABLED
    PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
#endif
    PyObject *closed_dict = Py_BuildValue("{sO}", "case", Py_None);
    if (add_exception(module, &Cancelled, "Cancelled", PyExc_BaseException, NULL,
                      "Raised in a G that was cancelled, where it parks.") < 0 ||
        !closed_dict ||
        add_exception(module, &ChanClosed, "ChanClosed", PyExc_Exception, closed_dict,
                      "A send on a closed channel, or a receive from a closed and drained one.\n\n"
                      "case: which case of a select that was (int); else None.") < 0 ||
        add_exception(module, &DeadlockError, "DeadlockError", PyExc_RuntimeError, NULL,
                      "Every G waits, and nothing is left that could wake one.") < 0 ||
        arena_install() < 0 || pym_init(module) < 0 || pyg_init(module) < 0 || pylook_init(module) < 0 ||
        pyscope_init(module) < 0 || pychan_init(module) < 0 || pysync_init(module) < 0 ||
        pywait_init(module) < 0 || pygroup_init(module) < 0 || pydump_init(module) < 0 ||
        pytrace_init(module) < 0 || pyprof_init(module) < 0 || pypoll_init(module) < 0 ||
        preempt_init(module) < 0 || anchor_init(module) < 0) {
        Py_CLEAR(module);
    }
    Py_XDECREF(closed_dict);
    return module;
}

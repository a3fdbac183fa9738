/* preempt.c: making a CPU-bound G yield at the interpreter's next safe point.
 *
 * remote-debug (3.14+): PEP 768's protocol inside one's own process. sysmon writes the path
 *   of a script into the thread's debugger support, marks it pending and sets the stop bit
 *   of the thread's eval breaker; at the next backward jump or function entry exactly that
 *   thread runs the script, with no lock held, and the script yields. Measured on 3.14.7t:
 *   0.3 ms from request to switch, no stop-the-world.
 * monitoring (3.12, 3.13, or when remote debugging is off): sys.monitoring events, switched
 *   on when needed; each switch-on stops the world for 1.5 to 4 ms.
 * none (3.11): a hog keeps its M until it parks.
 *
 * The script's last act is `+yield_point`: a C slot, so that the interpreter doesn't look
 * at the eval breaker again before the script has ended; an interrupt left for the G is
 * then raised as an asynchronous exception in the G's own code, not in the script. */
#include "bridge.h"

#include <sys/mman.h>
#include <unistd.h>

static PyObject *locking_files; /* frozenset of co_filename's */

enum { MODE_NONE, MODE_REMOTE, MODE_MONITORING };
static int mode = MODE_NONE;
/* Python. monitoring: switches the events on; remote-debug: does nothing, see deliver_async. */
static PyObject *callback;

static const char script[] = "from gmpy_rt._door import yield_point as y\n+y\n";

#if PY_VERSION_HEX >= 0x030E0000
static char script_path[64];
static const uintptr_t PLEASE_STOP = 1U << 5;
#endif

enum host_state py_thread_state(m *mp) {
#ifdef Py_GIL_DISABLED
    mhost *h = load_acquire(&mp->host);
    if (!h) return HOST_UNKNOWN;
    mutex_lock(&h->lock);
    int state = h->tstate ? __atomic_load_n(&h->tstate->state, __ATOMIC_RELAXED) : -1;
    mutex_unlock(&h->lock);
    /* 0: detached; 1: attached; 2: suspended by a stop-the-world, which isn't blocking. */
    return state == 0 ? HOST_DETACHED : state == 1 ? HOST_RUNNING : HOST_UNKNOWN;
#else
    (void)mp; /* detached may as well mean: waits for the GIL */
    return HOST_UNKNOWN;
#endif
}

#if PY_VERSION_HEX >= 0x030E0000
static void ask_remote(PyThreadState *ts) {
    memcpy(ts->remote_debugger_support.debugger_script_path, script_path, sizeof script_path);
    __atomic_store_n(&ts->remote_debugger_support.debugger_pending_call, 1, __ATOMIC_RELEASE);
    __atomic_fetch_or(&ts->eval_breaker, PLEASE_STOP, __ATOMIC_RELEASE);
}
#endif

/* From sysmon (no thread state) or from a Python thread. */
bool py_preempt(m *mp) {
    mhost *h = load_acquire(&mp->host);
    if (!h || mode == MODE_NONE || load_relaxed(&h->no_preempt)) return false;
    bool asked = false;
#if PY_VERSION_HEX >= 0x030E0000
    if (mode == MODE_REMOTE) {
        mutex_lock(&h->lock);
        if (h->tstate) {
            ask_remote(h->tstate);
            asked = true;
        }
        mutex_unlock(&h->lock);
    }
#endif
    if (mode == MODE_MONITORING && callback) {
        store_relaxed(&h->monitor_asked, true);
        PyGILState_STATE state = PyGILState_Ensure();
        PyObject *r = PyObject_CallNoArgs(callback);
        if (!r) PyErr_WriteUnraisable(callback);
        asked = r != NULL;
        Py_XDECREF(r);
        PyGILState_Release(state);
    }
    return asked;
}

/* Modules that keep invariants between two bytecodes (our locks and queues) have a global
 * __gmpy_atomic__: what interrupts a G isn't raised between two of their own. */
static bool in_atomic_code(void) {
    bool atomic = false;
    PyFrameObject *script_frame = PyEval_GetFrame(); /* or the monitoring callback's */
    PyFrameObject *frame = script_frame ? PyFrame_GetBack(script_frame) : NULL;
    PyObject *globals = frame ? PyFrame_GetGlobals(frame) : NULL;
    if (globals) atomic = PyDict_GetItemString(globals, "__gmpy_atomic__") != NULL;
    Py_XDECREF(globals);
    Py_XDECREF((PyObject *)frame);
    return atomic;
}

/* Leaves what interrupts gp to be raised in its own code, at the next check.
 *
 * That exception belongs to the thread: whichever G reaches a check next gets it. If gp
 * parks, yields or ends before it reaches one (`while not flag: pass` and then a receive),
 * a neighbour would be hit. So the M notes whose it is, and whoever takes gp off the M
 * takes the exception back first: async_take_back makes it a pending interrupt again,
 * which the park that is about to begin raises; async_forget drops it. */
static void deliver_async(g *gp) {
    if (!load_relaxed(&gp->cancel) || in_atomic_code()) return;
    /* The check that raises it first runs what else waits for one: finalizers and weakref
     * callbacks of objects that other threads let go, a collection. Raised inside one of
     * those it would be reported as ignored, and lost. So they run now: a Python call is a
     * check. */
    if (mode == MODE_REMOTE && callback) {
        PyObject *r = PyObject_CallNoArgs(callback);
        if (!r) PyErr_WriteUnraisable(callback);
        Py_XDECREF(r);
    }
    /* It takes a class: an instance would end as a SystemError. */
    PyObject *exc = take_interrupt(host_g(gp), true);
    if (!exc) {
        if (PyErr_Occurred()) PyErr_WriteUnraisable(NULL);
        return;
    }
    PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), exc);
    ((mhost *)load_relaxed(&sched_self->host))->async_for = gp;
    Py_DECREF(exc);
}

/* What lies in the thread's async_exc, taken out of there; NULL: it was raised already. */
static PyObject *async_pop(mhost *h) {
    h->async_for = NULL;
    PyObject *exc = __atomic_load_n(&h->tstate->async_exc, __ATOMIC_RELAXED);
    if (!exc) return NULL;
    Py_INCREF(exc);
    PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), NULL);
    return exc;
}

void async_take_back_slow(mhost *h, g *gp) {
    PyObject *exc = async_pop(h);
    if (!exc) return;
    put_back_interrupt(host_g(gp), exc);
    Py_DECREF(exc);
}

void async_forget_slow(mhost *h) {
    PyObject *exc = async_pop(h);
    Py_XDECREF(exc);
}

/* Is this thread in code of the standard library that holds locks of threads (the import
 * system, queue, logging, executors)? Preempted there, a G would leave its lock held, and the
 * next G of this M that wants it would block the M for ever, the holder with it; an RLock
 * would even let it in. */
static bool in_locking_code(void) {
    if (!locking_files) return false;
    bool found = false;
    PyFrameObject *f = PyThreadState_GetFrame(PyThreadState_Get());
    while (f && !found) {
        PyCodeObject *code = PyFrame_GetCode(f);
        found = PySet_Contains(locking_files, code->co_filename) == 1;
        Py_DECREF(code);
        PyFrameObject *back = PyFrame_GetBack(f);
        Py_DECREF(f);
        f = back;
    }
    Py_XDECREF(f);
    return found;
}

/* Not now: no_preempt went up after it was asked (then once it is down again), or the code
 * is such that sysmon had better ask again later. */
static bool put_off(void) {
    mhost *h = load_relaxed(&sched_self->host);
    if (!load_relaxed(&h->no_preempt)) return in_locking_code();
    h->preempt_late = true;
    return true;
}

static PyObject *yield_point_positive(PyObject *Py_UNUSED(self)) {
    g *gp = current_g();
    if (gp && !put_off()) {
        if (yield_now(true) < 0) return NULL;
        deliver_async(gp);
    }
    Py_RETURN_NONE;
}

/* The monitoring callback's half, after monitor_asked. A slot, and the callback's last act,
 * for the same reason as the script's: raised inside the callback, an exception would pass
 * by the handlers of the function that jumps (3.12 and 3.13 look for them elsewhere). */
static PyObject *yield_point_negative(PyObject *Py_UNUSED(self)) {
    g *gp = current_g();
    if (!gp || put_off()) Py_RETURN_FALSE;
#if PY_VERSION_HEX >= 0x030C0000
    /* Else the thread's tracing count stays up for the G that runs next. */
    PyThreadState *ts = PyThreadState_Get();
    PyThreadState_LeaveTracing(ts);
    int r = yield_now(true);
    PyThreadState_EnterTracing(ts);
    if (r < 0) return NULL;
    deliver_async(gp);
#endif
    Py_RETURN_TRUE;
}

static PyType_Slot yield_point_slots[] = {
    {Py_nb_positive, yield_point_positive}, {Py_nb_negative, yield_point_negative}, {0, NULL}};
static PyType_Spec yield_point_spec = {
    .name = "gmpy_rt._door.YieldPoint",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = yield_point_slots,
};

/* Did sysmon ask this very M? */
static PyObject *door_monitor_asked(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    m *mp = sched_self;
    mhost *h = mp && load_relaxed(&mp->cur) ? load_relaxed(&mp->host) : NULL;
    return PyBool_FromLong(h && atomic_exchange(&h->monitor_asked, false));
}

static PyObject *door_preempt_mode(PyObject *Py_UNUSED(module), PyObject *args) {
    const char *name;
    PyObject *on = Py_None;
    if (!PyArg_ParseTuple(args, "s|O", &name, &on)) return NULL;
    mode = strcmp(name, "remote-debug") == 0 ? MODE_REMOTE
           : strcmp(name, "monitoring") == 0 ? MODE_MONITORING
                                             : MODE_NONE;
    Py_XSETREF(callback, on == Py_None ? NULL : Py_NewRef(on));
#if PY_VERSION_HEX >= 0x030E0000
    if (mode == MODE_REMOTE && !script_path[0]) {
        int fd = memfd_create("gmpy_rt-yield", MFD_CLOEXEC);
        if (fd < 0 || write(fd, script, sizeof script - 1) != (ssize_t)sizeof script - 1)
            return PyErr_SetFromErrno(PyExc_OSError);
        snprintf(script_path, sizeof script_path, "/proc/self/fd/%d", fd);
    }
#endif
    Py_RETURN_NONE;
}

static PyObject *door_no_preempt(PyObject *Py_UNUSED(module), PyObject *arg) {
    m *mp = sched_self;
    long by = PyLong_AsLong(arg);
    if (by == -1 && PyErr_Occurred()) return NULL;
    if (mp) {
        mhost *h = load_relaxed(&mp->host);
        store_relaxed(&h->no_preempt, load_relaxed(&h->no_preempt) + (uint32_t)by);
        if (load_relaxed(&h->no_preempt) == 0 && h->preempt_late) {
            h->preempt_late = false;
            py_preempt(mp);
        }
    }
    Py_RETURN_NONE;
}

static PyObject *door_no_preempt_in(PyObject *Py_UNUSED(module), PyObject *files) {
    Py_XSETREF(locking_files, PyFrozenSet_New(files));
    if (!locking_files) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"monitor_asked", door_monitor_asked, METH_NOARGS, NULL},
    {"preempt_mode", door_preempt_mode, METH_VARARGS, NULL},
    {"no_preempt_in", door_no_preempt_in, METH_O, NULL},
    {"no_preempt", door_no_preempt, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int preempt_init(PyObject *module) {
    (void)script;
    PyObject *type = PyType_FromSpec(&yield_point_spec);
    PyObject *point = type ? PyObject_CallNoArgs(type) : NULL;
    Py_XDECREF(type);
    if (!point || PyModule_AddObjectRef(module, "yield_point", point) < 0) return -1;
    Py_DECREF(point);
    return PyModule_AddFunctions(module, methods);
}

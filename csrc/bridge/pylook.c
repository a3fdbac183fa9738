/* pylook.c: what a G tells of itself: state, wait reason, name, where it was started. */
#include "bridge.h"

const char *const wait_reasons[WAIT_REASONS] = {
    [WAIT_NONE] = "waiting",
    [WAIT_SLEEP] = "sleep",
    [WAIT_CHAN_SEND] = "chan send",
    [WAIT_CHAN_RECV] = "chan receive",
    [WAIT_SELECT] = "select",
    [WAIT_JOIN] = "join",
    [WAIT_MUTEX] = "lock",
    [WAIT_GROUP] = "wait group",
    [WAIT_IO_READ] = "IO read",
    [WAIT_IO_WRITE] = "IO write",
    [WAIT_BLOCKING] = "blocking call",
    [WAIT_PARK] = "park",
    [WAIT_COND] = "condition",
    [WAIT_EVENT] = "event",
    [WAIT_SEMAPHORE] = "semaphore",
    [WAIT_BARRIER] = "barrier",
    [WAIT_RLOCKED] = "read lock",
    [WAIT_WLOCKED] = "write lock",
    [WAIT_ONCE] = "once",
    [WAIT_QUEUE_GET] = "queue get",
    [WAIT_QUEUE_PUT] = "queue put",
    [WAIT_TIMERS] = "timers",
    [WAIT_TASKS] = "task group",
};

static const char *state_name(PyG *self) {
    if (load_acquire(&self->done))
        return !self->exc                                          ? "done"
               : PyErr_GivenExceptionMatches(self->exc, Cancelled) ? "cancelled"
                                                                   : "failed";
    switch (g_status(self->gp)) {
    case G_RUNNABLE: return load_relaxed(&self->gp->m) ? "runnable" : "new";
    case G_RUNNING: return "running";
    case G_WAITING: return wait_reasons[load_relaxed(&self->gp->reason) % WAIT_REASONS];
    default: return "ended";
    }
}

static PyObject *fn_name(PyG *self) {
    mutex_lock(&self->lock); /* finish() takes it away */
    PyObject *fn = Py_XNewRef(self->fn), *name = NULL;
    mutex_unlock(&self->lock);
    if (!fn) return NULL;
    name = PyObject_GetAttrString(fn, "__qualname__");
    if (!name) {
        PyErr_Clear();
        name = PyObject_Str((PyObject *)Py_TYPE(fn));
    }
    Py_DECREF(fn);
    return name;
}

static PyObject *g_get_name(PyG *self, void *Py_UNUSED(closure)) {
    PyObject *name = NULL;
    Py_BEGIN_CRITICAL_SECTION(self);
    if (self->name) name = Py_NewRef(self->name);
    Py_END_CRITICAL_SECTION();
    return name ? name : PyUnicode_FromFormat("G-%llu", (unsigned long long)self->gp->id);
}

static int g_set_name(PyG *self, PyObject *value, void *Py_UNUSED(closure)) {
    if (!value || !PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "name=%R: a G's name is a str", value ? value : Py_None);
        return -1;
    }
    Py_BEGIN_CRITICAL_SECTION(self);
    Py_XSETREF(self->name, Py_NewRef(value));
    Py_END_CRITICAL_SECTION();
    if (tracing()) trace_renamed(self, value);
    return 0;
}

PyObject *g_repr(PyG *self) {
    PyObject *fn = fn_name(self), *name = g_get_name(self, NULL), *r = NULL;
    if (name)
        r = fn ? PyUnicode_FromFormat("<G %llu %U %R [%s]>", (unsigned long long)self->gp->id, fn, name,
                                      state_name(self))
               : PyUnicode_FromFormat("<G %llu %R [%s]>", (unsigned long long)self->gp->id, name,
                                      state_name(self));
    Py_XDECREF(fn);
    Py_XDECREF(name);
    return r;
}

static PyObject *g_get_id(PyG *self, void *Py_UNUSED(c)) { return PyLong_FromUnsignedLongLong(self->gp->id); }
static PyObject *g_get_state(PyG *self, void *Py_UNUSED(c)) { return PyUnicode_FromString(state_name(self)); }
static PyObject *g_get_m(PyG *self, void *Py_UNUSED(c)) {
    m *mp = load_relaxed(&self->gp->m);
    if (!mp || load_acquire(&self->done)) Py_RETURN_NONE;
    return PyLong_FromUnsignedLong(mp->id);
}
static PyObject *g_get_waiting(PyG *self, void *Py_UNUSED(c)) {
    /* Without a reason it hasn't entered the core yet, and wait_since is that of its last wait. */
    if (g_status(self->gp) != G_WAITING || load_acquire(&self->gp->reason) == WAIT_NONE)
        return PyFloat_FromDouble(0.0);
    int64_t ns = nanotime() - load_relaxed(&self->gp->wait_since);
    return PyFloat_FromDouble(ns > 0 ? (double)ns / 1e9 : 0.0); /* the clocks of two CPUs may differ */
}

/* (file, line, function) of the go() that made it, or None. */
static PyObject *g_get_created(PyG *self, void *Py_UNUSED(c)) {
    if (!self->made_in || !PyCode_Check(self->made_in)) Py_RETURN_NONE;
    PyCodeObject *code = (PyCodeObject *)self->made_in;
    return Py_BuildValue("(OiO)", code->co_filename, PyCode_Addr2Line(code, self->made_at),
                         code->co_qualname);
}

static PyObject *g_get_latency(PyG *self, void *Py_UNUSED(c)) { return PyBool_FromLong(self->gp->latency); }

/* The greenlet it is parked in, for stack dumps on its own M; None otherwise. */
static PyObject *g_get_greenlet(PyG *self, void *Py_UNUSED(c)) {
    m *mp = load_relaxed(&self->gp->m);
    if (mp && mp == sched_self && self->greenlet) return Py_NewRef(self->greenlet);
    Py_RETURN_NONE;
}

/* The innermost frame of a parked G; None otherwise. With the GIL only: the caller walks live
 * frames, and without it they may be gone meanwhile (what look() noted has to do there). */
static PyObject *g_get_frame(PyG *self, void *Py_UNUSED(c)) {
#ifdef Py_GIL_DISABLED
    Py_RETURN_NONE;
#endif
    if (g_status(self->gp) != G_WAITING) Py_RETURN_NONE;
    if (self->greenlet) return PyObject_GetAttrString(self->greenlet, "gr_frame");
    /* The last that parked on an M with nothing else to run: the M sleeps on its stack. */
    m *mp = load_relaxed(&self->gp->m);
    mhost *h = mp && load_relaxed(&mp->cur) == self->gp ? load_acquire(&mp->host) : NULL;
    PyObject *frame = h && h->tstate ? (PyObject *)PyThreadState_GetFrame(h->tstate) : NULL;
    return frame ? frame : Py_NewRef(Py_None);
}

/* What was to be raised in a G that has ended, and came too late. */
static PyObject *g_get_untaken(PyG *self, void *Py_UNUSED(closure)) {
    mutex_lock(&self->lock);
    PyObject *exc = load_relaxed(&self->done) ? Py_XNewRef(self->interrupt) : NULL;
    mutex_unlock(&self->lock);
    return exc ? exc : Py_NewRef(Py_None);
}

PyGetSetDef g_getset[] = {
    {"_untaken", (getter)g_get_untaken, NULL, NULL, NULL},
    {"name", (getter)g_get_name, (setter)g_set_name, "str: for people; 'G-<id>' unless set.", NULL},
    {"id", (getter)g_get_id, NULL, "int: unique in this process.", NULL},
    {"state", (getter)g_get_state, NULL, "str: new, runnable, running, done, failed, or what it waits for.",
     NULL},
    {"m", (getter)g_get_m, NULL,
     "int or None: number of the M it is pinned to; None before it starts and after it ended.", NULL},
    {"waiting", (getter)g_get_waiting, NULL, "float: seconds since it parked; 0.0 if it isn't parked.", NULL},
    {"created", (getter)g_get_created, NULL,
     "tuple or None: file, line and function of the go() that made it.", NULL},
    {"latency", (getter)g_get_latency, NULL, "bool: of the latency class, see latency_class().", NULL},
    {"_greenlet", (getter)g_get_greenlet, NULL, NULL, NULL},
    {"_frame", (getter)g_get_frame, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* ---------------------------------------------------------------- module */

/* Every G that hasn't ended. */
static PyObject *door_all_g(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(unused)) {
    PyObject *list = PyList_New(0);
    if (!list) return NULL;
    uint32_t n = g_slots();
    for (uint32_t i = 0; i < n; i++) {
        g *gp = g_at(i);
        if (g_status(gp) == G_IDLE) continue;
        mutex_lock(&gp->host_lock);
        PyObject *self = Py_XNewRef((PyObject *)gp->host);
        mutex_unlock(&gp->host_lock);
        if (!self) continue;
        int r = PyList_Append(list, self);
        Py_DECREF(self);
        if (r < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

static PyMethodDef methods[] = {{"all_g", door_all_g, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};

int pylook_init(PyObject *module) {
    PyObject *reasons = PyTuple_New(WAIT_REASONS);
    for (int i = 0; reasons && i < WAIT_REASONS; i++)
        PyTuple_SET_ITEM(reasons, i, PyUnicode_FromString(wait_reasons[i]));
    int r = reasons ? PyModule_AddObjectRef(module, "wait_reasons", reasons) : -1;
    Py_XDECREF(reasons);
    return r < 0 ? -1 : PyModule_AddFunctions(module, methods);
}

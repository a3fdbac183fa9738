/* pyscope.c: what interrupts a G: cancel(), timeouts, and what holds them back.
 *
 * A G has one interrupt from outside (cancel, KeyboardInterrupt) and a list of scopes, the
 * innermost first: the `with timeout(...)` blocks and shields it is in. A scope fires once,
 * by its timer or by Scope.cancel(). All of it stands under PyG.lock, and so does gp->cancel,
 * which says: something is there that may be raised now.
 *
 * Raised is, in this order: the outside interrupt, if no shield stands around the G; else
 * the outermost scope that has fired, of those inside the innermost shield. Scopes inside
 * the raised one count as raised with it: one interruption for one way out.
 *
 * A G that runs meets its interrupt when it parks next. Only one that runs for a whole slice
 * without parking gets it between two bytecodes, from sysmon (preempt.c): that is rough, it
 * may hit the gap between taking something and the `try` after it.
 *
 * fire runs in timers_run, on any thread, maybe without a thread state: it touches no
 * reference. Lock order: timers.lock, then PyG.lock. */
#include "bridge.h"

typedef struct PyScope {
    PyObject_HEAD
    PyObject *weakrefs;
    _Atomic(PyG *) g; /* from enter on, for good */
    struct PyScope *outer;
    timer timer;
    PyObject *exc;  /* what was raised for it */
    double seconds; /* for the message; negative: none was given */
    int64_t when;   /* 0: no deadline */
    bool shield;
    bool silent; /* exit swallows what was raised for it */
    bool linked, fired, raised;
    bool cancelled; /* by cancel(): nothing puts that off */
    _Atomic bool expired;
} PyScope;

/* ---------------------------------------------------------------- under PyG.lock */

static bool held_by_shields(PyObject *exc) {
    return PyErr_GivenExceptionMatches(exc, Cancelled); /* not KeyboardInterrupt, DeadlockError */
}

static bool anything_to_raise(PyG *self) {
    bool shielded = false;
    if (self->masked) return false;
    for (PyScope *s = self->scopes; s && !shielded; s = s->outer) {
        if (s->fired && !s->raised) return true;
        shielded = s->shield;
    }
    return self->interrupt && (!shielded || !self->interrupt_soft);
}

/* Says so to the G; returns whether its wait was claimed and is the caller's to unpark. */
static bool tell(PyG *self) {
    bool any = anything_to_raise(self);
    store_seq(&self->gp->cancel, any);
    return any && parker_claim_any(&self->gp->parker, WAKE_CANCEL);
}

static void unlink_scope(PyG *self, PyScope *scope) {
    for (PyScope **at = &self->scopes; *at; at = &(*at)->outer)
        if (*at == scope) {
            *at = scope->outer;
            break;
        }
    scope->outer = NULL;
    scope->linked = false;
    store_seq(&self->gp->cancel, anything_to_raise(self));
}

/* ---------------------------------------------------------------- interrupting */

int interrupt_g(PyG *self, PyObject *exc) {
    PyObject *drop = NULL;
    bool claimed = false, soft = held_by_shields(exc);
    mutex_lock(&self->lock);
    bool done = load_relaxed(&self->done);
    /* A cancel doesn't take the place of a KeyboardInterrupt. */
    if (!done && !(soft && self->interrupt && !self->interrupt_soft)) {
        drop = self->interrupt;
        self->interrupt = Py_NewRef(exc);
        self->interrupt_soft = soft;
        claimed = tell(self);
    }
    mutex_unlock(&self->lock);
    int again = drop != NULL;
    Py_XDECREF(drop);
    if (claimed) parker_unpark(&self->gp->parker);
    return done ? -1 : again;
}

static parker *fire(timer *t) {
    PyScope *s = containerof(t, PyScope, timer);
    mutex_lock(&s->g->lock);
    s->fired = true;
    bool claimed = tell(s->g);
    mutex_unlock(&s->g->lock);
    return claimed ? &s->g->gp->parker : NULL;
}

static PyObject *expiry(PyScope *s) {
    PyObject *exc;
    if (s->seconds >= 0) {
        PyObject *seconds = PyFloat_FromDouble(s->seconds), *text = NULL;
        if (seconds) text = PyUnicode_FromFormat("timeout of %R s", seconds);
        exc = text ? PyObject_CallOneArg(Cancelled, text) : NULL;
        Py_XDECREF(seconds);
        Py_XDECREF(text);
    } else
        exc = PyObject_CallNoArgs(Cancelled);
    if (exc) {
        Py_XSETREF(s->exc, Py_NewRef(exc));
        store_release(&s->expired, true);
    }
    return exc;
}

PyObject *take_interrupt(PyG *self) {
    PyObject *exc = NULL;
    PyScope *best = NULL;
    bool shielded = false;
    mutex_lock(&self->lock);
    for (PyScope *s = self->scopes; s && !shielded; s = s->outer) {
        if (s->fired && !s->raised) best = s;
        shielded = s->shield;
    }
    if (self->interrupt && (!shielded || !self->interrupt_soft)) {
        exc = self->interrupt;
        self->interrupt = NULL;
        best = NULL;
    }
    for (PyScope *s = best ? self->scopes : NULL; s; s = s->outer) {
        s->raised |= s->fired;
        if (s == best) break;
    }
    Py_XINCREF(best);
    store_seq(&self->gp->cancel, anything_to_raise(self));
    mutex_unlock(&self->lock);
    if (best) {
        exc = expiry(best);
        Py_DECREF(best);
    }
    return exc;
}

int raise_interrupt(PyG *self) {
#if PY_VERSION_HEX < 0x030C0000
    /* Making the exception may collect there, and a finalizer wait: on the waiter that the caller
     * has still in a queue. Later versions collect between bytecodes only. */
    int collects = PyGC_Disable();
    PyObject *exc = take_interrupt(self);
    if (collects) PyGC_Enable();
#else
    PyObject *exc = take_interrupt(self);
#endif
    if (!exc) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_SystemError, "gmpy_rt: interrupted by nothing");
        return PARK_ERROR;
    }
    PyErr_SetObject(PyExceptionInstance_Check(exc) ? (PyObject *)Py_TYPE(exc) : exc,
                    PyExceptionInstance_Check(exc) ? exc : NULL);
    Py_DECREF(exc);
    return PARK_ERROR;
}

void mask_interrupts(PyG *self, int by) {
    mutex_lock(&self->lock);
    self->masked += by;
    store_seq(&self->gp->cancel, anything_to_raise(self));
    mutex_unlock(&self->lock);
}

void scopes_end(PyG *self) {
    for (;;) {
        mutex_lock(&self->lock);
        PyScope *s = self->scopes;
        mutex_unlock(&self->lock);
        if (!s) return;
        timer_remove(&s->timer);
        mutex_lock(&self->lock);
        unlink_scope(self, s);
        mutex_unlock(&self->lock);
        Py_DECREF(s);
    }
}

/* ---------------------------------------------------------------- the Scope object */

/* None: -1. Below 0: 0. */
static int seconds_arg(PyObject *arg, double *s) {
    *s = -1.0;
    if (arg == Py_None) return 0;
    if (seconds_from(arg, s) < 0) return -1; /* its errors fit */
    if (*s < 0) *s = 0;
    return 0;
}

static PyObject *scope_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"seconds", "when", "shield", "silent", NULL};
    PyObject *seconds = Py_None, *when = Py_None;
    int shield = 0, silent = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|OOpp:Scope", names, &seconds, &when, &shield, &silent))
        return NULL;
    double s = -1.0, at = 0.0;
    if (seconds_arg(seconds, &s) < 0) return NULL;
    if (when != Py_None && (at = PyFloat_AsDouble(when)) == -1.0 && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_TypeError))
            PyErr_Format(PyExc_TypeError, "deadline(%R): give a time of time.monotonic(), in seconds", when);
        return NULL;
    }
    if (at != at) {
        PyErr_SetString(PyExc_ValueError, "deadline(nan): give a time of time.monotonic(), in seconds");
        return NULL;
    }
    PyScope *self = (PyScope *)type->tp_alloc(type, 0);
    if (!self) return NULL;
    self->timer.index = -1;
    self->seconds = s;
    if (when != Py_None) self->when = at <= 0 ? 1 : at > 9e9 ? 0 : (int64_t)(at * 1e9);
    self->shield = shield;
    self->silent = silent;
    return (PyObject *)self;
}

/* By its own G, linked: arms the timer for self->when, or fires at once. */
static int arm(PyScope *self) {
    if (!self->when) return 0;
    if (self->when <= nanotime()) {
        mutex_lock(&self->g->lock);
        self->fired = true;
        store_seq(&self->g->gp->cancel, anything_to_raise(self->g));
        mutex_unlock(&self->g->lock);
        return 0;
    }
    m *mp = sched_self;
    p *pp = sched_enter(mp);
    bool ok = timers_add_fire(&pp->timers, &self->timer, self->when, fire);
    if (ok) sched_timer_added(self->when);
    sched_leave(mp);
    if (!ok) PyErr_NoMemory();
    return ok ? 0 : -1;
}

static void set_seconds(PyScope *self) {
    if (self->seconds >= 0)
        self->when = self->seconds > 1e9 ? 0 : nanotime() + (int64_t)(self->seconds * 1e9);
}

static PyObject *scope_enter(PyScope *self, PyObject *Py_UNUSED(unused)) {
    g *gp = current_g();
    if (!gp) {
        PyErr_SetString(PyExc_RuntimeError, "timeout(), deadline() and shield() work on a G: use them in a "
                                            "function started by run() or go()");
        return NULL;
    }
    PyG *mine = host_g(gp), *none = NULL;
    if (!atomic_compare_exchange_strong(&self->g, &none, mine)) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a timeout, deadline or shield can be entered once; make a new one");
        return NULL;
    }
    Py_INCREF((PyObject *)mine);
    set_seconds(self);
    mutex_lock(&mine->lock);
    self->outer = mine->scopes;
    mine->scopes = (PyScope *)Py_NewRef((PyObject *)self);
    self->linked = true;
    if (self->shield) store_seq(&gp->cancel, anything_to_raise(mine));
    mutex_unlock(&mine->lock);
    if (arm(self) == 0) return Py_NewRef((PyObject *)self);
    mutex_lock(&mine->lock);
    unlink_scope(mine, self);
    mutex_unlock(&mine->lock);
    Py_DECREF(self);
    return NULL;
}

/* Whether it hadn't been left before. */
static bool leave_scope(PyScope *self) {
    timer_remove(&self->timer);
    mutex_lock(&self->g->lock);
    bool linked = self->linked;
    if (linked) unlink_scope(self->g, self);
    mutex_unlock(&self->g->lock);
    if (linked) Py_DECREF(self); /* the list's; the caller has one */
    return linked;
}

static PyObject *scope_exit(PyScope *self, PyObject *const *args, Py_ssize_t nargs) {
    g *gp = current_g();
    /* Whoever leaves it, it is over: its G mustn't be interrupted for it any more. */
    if (!self->g || !leave_scope(self) || !gp || host_g(gp) != self->g) {
        PyErr_SetString(PyExc_RuntimeError,
                        "a timeout, deadline or shield must be left once, by the G that entered it");
        return NULL;
    }
    bool own = self->exc && nargs > 1 && args[1] == self->exc;
    Py_CLEAR(self->exc);
    if (!own) Py_RETURN_FALSE;
    if (self->silent) Py_RETURN_TRUE;
    if (self->seconds >= 0) {
        PyObject *seconds = PyFloat_FromDouble(self->seconds);
        if (seconds) PyErr_Format(PyExc_TimeoutError, "not done within the timeout of %R s", seconds);
        Py_XDECREF(seconds);
    } else
        PyErr_SetString(PyExc_TimeoutError,
                        self->when ? "not done before the deadline" : "the block was cancelled");
    return NULL;
}

static PyObject *scope_cancel(PyScope *self, PyObject *Py_UNUSED(unused)) {
    bool claimed = false, live = false;
    if (!self->g) {
        PyErr_SetString(PyExc_RuntimeError, "cancel() of a scope that was never entered");
        return NULL;
    }
    mutex_lock(&self->g->lock);
    if (self->linked && !self->fired) {
        live = self->fired = self->cancelled = true;
        claimed = tell(self->g);
    }
    mutex_unlock(&self->g->lock);
    if (claimed) parker_unpark(&self->g->gp->parker);
    return PyBool_FromLong(live);
}

static PyObject *scope_reschedule(PyScope *self, PyObject *arg) {
    double s;
    if (seconds_arg(arg, &s) < 0) return NULL;
    g *gp = current_g();
    if (!gp || host_g(gp) != self->g || !self->linked) {
        PyErr_SetString(PyExc_RuntimeError, "reschedule() works inside the block, in the G that entered it");
        return NULL;
    }
    timer_remove(&self->timer);
    mutex_lock(&self->g->lock);
    bool over = self->raised || self->cancelled;
    if (!over) {
        self->fired = false;
        store_seq(&gp->cancel, anything_to_raise(self->g));
    }
    mutex_unlock(&self->g->lock);
    if (over) {
        PyErr_SetString(PyExc_RuntimeError, "reschedule(): it has expired already, or was cancelled");
        return NULL;
    }
    self->when = 0;
    self->seconds = s;
    set_seconds(self);
    if (arm(self) < 0) return NULL;
    Py_RETURN_NONE;
}

static PyObject *scope_get_expired(PyScope *self, void *Py_UNUSED(c)) {
    return PyBool_FromLong(load_acquire(&self->expired));
}

static PyObject *scope_get_when(PyScope *self, void *Py_UNUSED(c)) {
    if (!self->when) Py_RETURN_NONE;
    return PyFloat_FromDouble((double)self->when / 1e9);
}

static int scope_traverse(PyScope *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->g);
    Py_VISIT(self->exc);
    return 0;
}

static int scope_clear(PyScope *self) {
    Py_CLEAR(self->exc);
    return 0;
}

static void scope_dealloc(PyScope *self) { /* never while linked: the list has a reference */
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weakrefs) PyObject_ClearWeakRefs((PyObject *)self);
    Py_CLEAR(self->g);
    Py_CLEAR(self->exc);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef scope_methods[] = {
    {"__enter__", (PyCFunction)scope_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))scope_exit, METH_FASTCALL, NULL},
    {"cancel", (PyCFunction)scope_cancel, METH_NOARGS,
     "cancel()\n--\n\nExpire now, from any G or thread. Returns False if it had already, or was left."},
    {"reschedule", (PyCFunction)scope_reschedule, METH_O,
     "reschedule(seconds, /)\n--\n\nFrom now on so many seconds; None: no limit.\n\n"
     "Raises RuntimeError outside the block, in another G, or once it has expired."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef scope_getset[] = {
    {"expired", (getter)scope_get_expired, NULL, "bool: whether it has interrupted its block.", NULL},
    {"when", (getter)scope_get_when, NULL, "float or None: the time.monotonic() at which it expires.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef scope_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PyScope, weakrefs), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot scope_slots[] = {
    {Py_tp_new, scope_new},
    {Py_tp_dealloc, scope_dealloc},
    {Py_tp_traverse, scope_traverse},
    {Py_tp_clear, scope_clear},
    {Py_tp_methods, scope_methods},
    {Py_tp_getset, scope_getset},
    {Py_tp_members, scope_members},
    {Py_tp_doc, "Scope(seconds=None, when=None, shield=False, silent=False)\n--\n\n"
                "A block that can be interrupted as a whole; see gmpy_rt.timeout, deadline, shield."},
    {0, NULL},
};

static PyType_Spec scope_spec = {
    .name = "gmpy_rt._door.Scope",
    .basicsize = sizeof(PyScope),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = scope_slots,
};

int pyscope_init(PyObject *module) {
    PyObject *scope = PyType_FromModuleAndSpec(module, &scope_spec, NULL);
    return scope ? PyModule_AddObjectRef(module, "Scope", scope) : -1;
}
